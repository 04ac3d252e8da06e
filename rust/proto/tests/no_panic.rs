// SPDX-License-Identifier: GPL-2.0

//! Nothing in the crate can panic: a panic in the kernel is a BUG().
//!
//! The crate and a probe that calls all of it are compiled as Kbuild compiles the module, with
//! overflow checks on, and neither object may refer to `core::panicking`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Compiles a library and returns the object's bytes.
fn compile(name: &str, source: &Path, out: &Path) -> Vec<u8> {
    let object = out.join(format!("{name}.o"));
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let result = Command::new(rustc)
        .args([
            "--edition=2021",
            "--crate-type=rlib",
            "-Cpanic=abort",
            "-Copt-level=2",
        ])
        .args([
            "-Coverflow-checks=on",
            "-Ccodegen-units=1",
            "--crate-name",
            name,
        ])
        .arg(format!(
            "--emit=obj={},metadata={}",
            object.display(),
            out.join(format!("lib{name}.rmeta")).display()
        ))
        .arg("-L")
        .arg(out)
        .args((name == "probe").then_some("--extern=proto"))
        .arg(source)
        .output()
        .expect("rustc runs");
    assert!(
        result.status.success(),
        "{}",
        String::from_utf8_lossy(&result.stderr)
    );
    fs::read(object).unwrap()
}

/// Whether an object names anything of `core::panicking`; symbols are mangled as `9panicking`.
fn can_panic(object: &[u8]) -> bool {
    object.windows(10).any(|window| window == b"9panicking")
}

fn directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&directory).unwrap();
    directory
}

#[test]
fn neither_the_crate_nor_its_callers_can_panic() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = directory("no_panic");
    let library = compile("proto", &here.join("src/lib.rs"), &out);
    assert!(
        !can_panic(&library),
        "the crate can panic: see nm -C {}",
        out.join("proto.o").display()
    );
    let probe = compile("probe", &here.join("tests/no_panic/probe.rs"), &out);
    assert!(
        !can_panic(&probe),
        "a caller can panic: see nm -C {}",
        out.join("probe.o").display()
    );
}

/// The test above can fail.
#[test]
fn a_panic_would_be_found() {
    let out = directory("panic");
    let source = out.join("indexes.rs");
    fs::write(
        &source,
        "#![no_std]\n#[no_mangle]\npub fn first(bytes: &[u8]) -> u8 { bytes[0] }\n",
    )
    .unwrap();
    assert!(can_panic(&compile("indexes", &source, &out)));
}
