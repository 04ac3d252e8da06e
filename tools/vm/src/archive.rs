// SPDX-License-Identifier: GPL-2.0

//! The initramfs: the guest's first process, the modules it needs, and the files that lie over the image.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};
use cpio::newc::{trailer, Builder};

const DIRECTORY: u32 = 0o040_755;
const CHARACTER_DEVICE: u32 = 0o020_600;
const PROGRAM: u32 = 0o100_755;

/// An initramfs being written.
pub struct Archive<W: Write> {
    to: W,
    /// Directories written so far: a file's parents come before it.
    directories: BTreeSet<PathBuf>,
    inode: u32,
}

impl<W: Write> Archive<W> {
    /// An archive with `/dev/console`, without which the kernel's first process has no output.
    pub fn new(to: W) -> Result<Self> {
        let mut archive = Self {
            to,
            directories: BTreeSet::new(),
            inode: 0,
        };
        archive.directory(Path::new("dev"))?;
        let console = archive.entry(Path::new("dev/console"))?;
        archive.write(
            console.mode(CHARACTER_DEVICE).rdev_major(5).rdev_minor(1),
            0,
            io::empty(),
        )?;
        Ok(archive)
    }

    /// The program `host` as `/init`.
    pub fn init(&mut self, host: &Path) -> Result<()> {
        let file = File::open(host).with_context(|| host.display().to_string())?;
        let size = file.metadata()?.len();
        let entry = self.entry(Path::new("init"))?;
        self.write(entry.mode(PROGRAM), size, file)
    }

    /// A file or a directory with all it holds, at `guest` relative to the root. A link that is named itself
    /// is followed, links inside a directory are kept.
    pub fn add(&mut self, host: &Path, guest: &Path) -> Result<()> {
        let meta = fs::metadata(host).with_context(|| host.display().to_string())?;
        if let Some(parent) = guest.parent() {
            self.directory(parent)?;
        }
        self.add_as(host, guest, &meta)
    }

    fn add_as(&mut self, host: &Path, guest: &Path, meta: &Metadata) -> Result<()> {
        let kind = meta.file_type();
        if kind.is_dir() {
            self.directory(guest)?;
            let mut names: Vec<_> = fs::read_dir(host)
                .with_context(|| host.display().to_string())?
                .map(|entry| Ok(entry?.file_name()))
                .collect::<io::Result<_>>()?;
            names.sort();
            for name in names {
                let path = host.join(&name);
                let meta = fs::symlink_metadata(&path)?;
                self.add_as(&path, &guest.join(&name), &meta)?;
            }
            return Ok(());
        }
        let entry = self.entry(guest)?.mode(meta.mode()).mtime(mtime(meta));
        if kind.is_symlink() {
            let target = fs::read_link(host)?;
            let target = target.as_os_str().as_bytes();
            self.write(entry, target.len() as u64, target)
        } else if kind.is_file() {
            let file = File::open(host).with_context(|| host.display().to_string())?;
            self.write(entry, meta.len(), file)
        } else if kind.is_socket() || kind.is_fifo() {
            Ok(())
        } else {
            bail!("{}: neither file nor directory", host.display());
        }
    }

    /// Ends the archive; returns what it was written to.
    pub fn finish(self) -> Result<W> {
        Ok(trailer(self.to)?)
    }

    /// A directory and those above it, unless they are there.
    fn directory(&mut self, path: &Path) -> Result<()> {
        if path.as_os_str().is_empty() || self.directories.contains(path) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        self.directories.insert(path.to_owned());
        let entry = self.entry(path)?;
        self.write(entry.mode(DIRECTORY).nlink(2), 0, io::empty())
    }

    fn entry(&mut self, path: &Path) -> Result<Builder> {
        self.inode += 1;
        let name = path
            .to_str()
            .with_context(|| format!("{}: not UTF-8", path.display()))?;
        Ok(Builder::new(name).ino(self.inode).nlink(1))
    }

    fn write(&mut self, entry: Builder, size: u64, mut from: impl io::Read) -> Result<()> {
        let size = u32::try_from(size).context("a file of 4 GiB or more")?;
        let mut writer = entry.write(&mut self.to, size);
        io::copy(&mut from, &mut writer)?;
        writer.finish()?;
        Ok(())
    }
}

/// Seconds since 1970, as far as the format goes.
fn mtime(meta: &Metadata) -> u32 {
    u32::try_from(meta.mtime()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::io::Read;
    use std::os::unix::fs::{symlink, PermissionsExt};

    /// Name, mode and contents of every member.
    fn members(mut bytes: &[u8]) -> Result<BTreeMap<String, (u32, Vec<u8>)>> {
        let mut members = BTreeMap::new();
        loop {
            let mut reader = cpio::newc::Reader::new(bytes)?;
            if reader.entry().is_trailer() {
                return Ok(members);
            }
            let mut contents = Vec::new();
            reader.read_to_end(&mut contents)?;
            let entry = reader.entry();
            let known = members.insert(entry.name().to_owned(), (entry.mode(), contents));
            assert!(known.is_none(), "{} twice", entry.name());
            bytes = reader.finish()?;
        }
    }

    #[test]
    fn files_keep_contents_mode_and_place() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let tool = dir.path().join("tool");
        fs::write(&tool, "#!/bin/sh\n")?;
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755))?;
        symlink("tool", dir.path().join("link"))?;
        fs::create_dir(dir.path().join("sub"))?;
        fs::write(dir.path().join("sub/data"), [0, 1, 2])?;

        let mut archive = Archive::new(Vec::new())?;
        archive.add(dir.path(), Path::new("layer/opt/x"))?;
        archive.add(&dir.path().join("link"), Path::new("layer/opt/y"))?;
        let members = members(&archive.finish()?)?;

        assert_eq!(
            members["layer/opt/x/tool"],
            (0o100_755, b"#!/bin/sh\n".to_vec())
        );
        assert_eq!(members["layer/opt/x/link"], (0o120_777, b"tool".to_vec()));
        assert_eq!(members["layer/opt/x/sub/data"].1, [0, 1, 2]);
        assert_eq!(members["layer/opt/y"], (0o100_755, b"#!/bin/sh\n".to_vec()));
        for parent in ["layer", "layer/opt", "layer/opt/x", "layer/opt/x/sub"] {
            assert_eq!(members[parent].0, DIRECTORY);
        }
        Ok(())
    }

    #[test]
    fn a_missing_file_is_named() {
        let mut archive = Archive::new(Vec::new()).unwrap();
        let error = archive
            .add(Path::new("/no/such/file"), Path::new("x"))
            .unwrap_err();
        assert!(format!("{error:#}").contains("/no/such/file"));
    }
}
