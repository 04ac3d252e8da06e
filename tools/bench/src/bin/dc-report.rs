// SPDX-License-Identifier: GPL-2.0

//! Makes tables and plots of what scripts/bench found.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{bail, ensure, Context, Result};
use bench::report::Report;
use bench::{chart, figures};
use lexopt::prelude::*;

const HELP: &str = "\
Usage: dc-report --font=FILE DIR

Reads every result DIR/*.json, and writes beside it

  NAME.rst             its table, in reStructuredText
  NAME*.svg NAME*.png  its plots

and index.rst, which has them all.

  --font=FILE  a TrueType font for the plots
";

#[derive(Debug, PartialEq)]
enum Request {
    Help,
    Render { dir: PathBuf, font: PathBuf },
}

fn main() -> ExitCode {
    match parse(std::env::args_os().skip(1)).and_then(|request| run(&request)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dc-report: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Request> {
    let mut parser = lexopt::Parser::from_args(args);
    let (mut dir, mut font) = (None, None);
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(Request::Help),
            Long("font") => font = Some(PathBuf::from(parser.value()?)),
            Value(word) if dir.is_none() => dir = Some(PathBuf::from(word)),
            _ => return Err(arg.unexpected().into()),
        }
    }
    match (dir, font) {
        (Some(dir), Some(font)) => Ok(Request::Render { dir, font }),
        _ => bail!("a directory and --font=FILE are needed; --help tells more"),
    }
}

fn run(request: &Request) -> Result<()> {
    let Request::Render { dir, font } = request else {
        print!("{HELP}");
        return Ok(());
    };
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
        for wrong in [&[][..], &["d"], &["--font=f"], &["--font=f", "d", "e"]] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }
}
