// SPDX-License-Identifier: GPL-2.0

//! Makes tables and plots of what scripts/bench found.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{bail, ensure, Context, Result};
use bench::report::Report;
use bench::{chart, compare, figures};
use lexopt::prelude::*;

const HELP: &str = "\
Usage: dc-report --font=FILE DIR
       dc-report --compare DIR DIR

Reads every result DIR/*.json, and writes beside it

  NAME.rst             its table, in reStructuredText
  NAME*.svg NAME*.png  its plots

and index.rst, which has them all.

  --font=FILE  a TrueType font for the plots
  --compare    list the cases whose instructions differ by more than 1 % between two runs

Exit status: 0; 1 if two runs differ; 2 for wrong usage or if something failed.
";

#[derive(Debug, PartialEq)]
enum Request {
    Help,
    Render { dir: PathBuf, font: PathBuf },
    Compare(PathBuf, PathBuf),
}

fn main() -> ExitCode {
    match parse(std::env::args_os().skip(1)).and_then(|request| run(&request)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("dc-report: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Request> {
    let mut parser = lexopt::Parser::from_args(args);
    let (mut dirs, mut font, mut compare) = (vec![], None, false);
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(Request::Help),
            Long("font") => font = Some(PathBuf::from(parser.value()?)),
            Long("compare") => compare = true,
            Value(word) => dirs.push(PathBuf::from(word)),
            _ => return Err(arg.unexpected().into()),
        }
    }
    match (compare, font, dirs.as_slice()) {
        (false, Some(font), [dir]) => Ok(Request::Render {
            dir: dir.clone(),
            font,
        }),
        (true, None, [first, second]) => Ok(Request::Compare(first.clone(), second.clone())),
        _ => bail!("a directory and --font=FILE are needed, or two to compare; --help tells more"),
    }
}

/// Whether two runs agree; true for all else.
fn run(request: &Request) -> Result<bool> {
    match request {
        Request::Help => print!("{HELP}"),
        Request::Render { dir, font } => render_all(dir, font)?,
        Request::Compare(first, second) => return compare_runs(first, second),
    }
    Ok(true)
}

fn compare_runs(first: &Path, second: &Path) -> Result<bool> {
    let found = compare::directories(first, second)?;
    for line in &found.left_out {
        println!("not compared: {line}");
    }
    for line in &found.differences {
        println!("{line}");
    }
    println!(
        "{} cases compared, {} differences of more than {} %",
        found.compared,
        found.differences.len(),
        compare::TOLERANCE
    );
    Ok(found.differences.is_empty())
}

fn render_all(dir: &Path, font: &Path) -> Result<()> {
    chart::use_font(font)?;
    let mut files: Vec<_> = fs::read_dir(dir)
        .with_context(|| dir.display().to_string())?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|kind| kind == "json"));
    files.sort();
    ensure!(!files.is_empty(), "{}: no results", dir.display());
    let mut index = ".. SPDX-License-Identifier: GPL-2.0\n\n".to_owned();
    for file in files {
        let section = render(dir, &file).with_context(|| file.display().to_string())?;
        fs::write(file.with_extension("rst"), &section)?;
        index.push_str(&section);
    }
    fs::write(dir.join("index.rst"), index)?;
    Ok(())
}

/// Draws the plots of a result; its section of the index.
fn render(dir: &Path, file: &Path) -> Result<String> {
    let report: Report = serde_json::from_str(&fs::read_to_string(file)?)?;
    let mut text = report.section();
    for chart in figures::of(&report) {
        chart.write(dir)?;
        text.push_str(&chart.figure());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        let parsed = |args: &[&str]| parse(args.iter().map(OsString::from));
        let request = Request::Render {
            dir: "d".into(),
            font: "f".into(),
        };
        assert_eq!(parsed(&["--font=f", "d"]).unwrap(), request);
        assert_eq!(parsed(&["--help"]).unwrap(), Request::Help);
        let compare = Request::Compare("d".into(), "e".into());
        assert_eq!(parsed(&["--compare", "d", "e"]).unwrap(), compare);
        for wrong in [
            &[][..],
            &["d"],
            &["--font=f"],
            &["--font=f", "d", "e"],
            &["--compare", "d"],
            &["--compare", "--font=f", "d", "e"],
        ] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }
}
