//! Keys and certificates on disk: whole or not there, also after a crash at any point.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};

use super::Issued;
use crate::fingerprint::KeyFingerprint;

/// Why a key or certificate was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("{0} exists already: move it away first; keys are never overwritten")]
    Exists(PathBuf),
    #[error("the new certificate does not belong to the new key: ask for both again")]
    NoPair,
    #[error("cannot write {path}")]
    Io { path: PathBuf, source: io::Error },
}

/// Writes a private key into a new file that only its owner may read (0600). An existing file is never touched.
pub fn write_private_key(path: &Path, key_pem: &str) -> Result<(), WriteError> {
    write_new(path, key_pem, 0o600)
}

/// Writes a certificate into a new file that everybody may read (0644). An existing file is never touched.
pub fn write_certificate(path: &Path, certificate_pem: &str) -> Result<(), WriteError> {
    write_new(path, certificate_pem, 0o644)
}

/// Puts a renewed certificate in the place of one with the same key. Whoever opens the file gets the old one or the new
/// one, whole, and either goes with the key. Mode and owner stay as they are. The reader has to be told: PostgreSQL by a
/// reload, after which new connections are shown the new certificate.
pub fn replace_certificate(path: &Path, certificate_pem: &str) -> Result<(), WriteError> {
    let draft = draft(path, certificate_pem, 0o644)?;
    put(&draft, path)
}

/// Puts a new key and its certificate in the place of another pair, in two renames.
///
/// A crash leaves the old pair, the new one, or half of each, and then the other half beside it, from which
/// [`settle_pair`] makes the new pair: call that before anything opens the files. A program that happens to open them
/// between the two renames finds a pair that does not match. PostgreSQL does so only when it is told to reload, and
/// then goes on with what it has; so let one task replace, and then reload.
pub fn replace_pair(certificate_path: &Path, key_path: &Path, pair: &Issued) -> Result<(), WriteError> {
    if !matches(&pair.certificate_pem, &pair.key_pem) {
        return Err(WriteError::NoPair);
    }
    settle_pair(certificate_path, key_path)?;
    // In this order: a certificate that waits means that the key waits too, or is in its place already.
    put(&draft(key_path, &pair.key_pem, 0o600)?, &next(key_path))?;
    put(&draft(certificate_path, &pair.certificate_pem, 0o644)?, &next(certificate_path))?;
    settle_pair(certificate_path, key_path)
}

/// Finishes what a crash has interrupted in [`replace_pair`], or takes back what had hardly begun.
pub fn settle_pair(certificate_path: &Path, key_path: &Path) -> Result<(), WriteError> {
    let (next_certificate, next_key) = (next(certificate_path), next(key_path));
    let is_there = |path: &Path| path.try_exists().map_err(|source| failed(path, source));
    match (is_there(&next_certificate)?, is_there(&next_key)?) {
        (false, false) => Ok(()),
        (false, true) => std::fs::remove_file(&next_key).map_err(|source| failed(&next_key, source)),
        (true, key_waits) => {
            if key_waits {
                put(&next_key, key_path)?;
            }
            put(&next_certificate, certificate_path)
        }
    }
}

fn matches(certificate_pem: &str, key_pem: &str) -> bool {
    let certificate = KeyFingerprint::of_certificate_pem(certificate_pem);
    let key = KeyFingerprint::of_private_key_pem(key_pem);
    matches!((certificate, key), (Ok(certificate), Ok(key)) if certificate == key)
}

fn failed(path: &Path, source: io::Error) -> WriteError {
    WriteError::Io { path: path.to_owned(), source }
}

/// Where the half of a pair waits for the other half.
fn next(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".next");
    PathBuf::from(name)
}

/// After a crash at any point `path` is either absent or whole: the text is made durable under another name
/// first. `link`, unlike `rename`, fails if the name is taken.
fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), WriteError> {
    let draft = draft(path, text, mode)?;
    let linked = std::fs::hard_link(&draft, path);
    // Also when linking failed: a draft holds a key.
    let removed = std::fs::remove_file(&draft);
    linked.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => WriteError::Exists(path.to_owned()),
        _ => failed(path, source),
    })?;
    removed.map_err(|source| failed(path, source))?;
    sync_directory(path)
}

/// Gives a file that is whole its name, for good.
fn put(draft: &Path, path: &Path) -> Result<(), WriteError> {
    if let Err(source) = std::fs::rename(draft, path) {
        let _ = std::fs::remove_file(draft);
        return Err(failed(path, source));
    }
    sync_directory(path)
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn sync_directory(path: &Path) -> Result<(), WriteError> {
    let synced = File::open(directory_of(path)).and_then(|directory| directory.sync_all());
    synced.map_err(|source| failed(path, source))
}

/// Makes the text durable beside `path`, with the mode and the owner of `path` if it exists; returns where.
fn draft(path: &Path, text: &str, mode: u32) -> Result<PathBuf, WriteError> {
    let mut random = [0; 8];
    let no_random = |_| failed(path, io::Error::other("no random numbers"));
    SystemRandom::new().fill(&mut random).map_err(no_random)?;
    let name = path.file_name().ok_or_else(|| failed(path, io::ErrorKind::InvalidInput.into()))?;
    let mut draft_name = OsString::from(".");
    draft_name.push(name);
    draft_name.push(format!(".{:016x}.new", u64::from_ne_bytes(random)));
    let draft = directory_of(path).join(draft_name);
    let written = write_draft(&draft, path, text, mode);
    if let Err(source) = written {
        // It may hold a key. If it was never made, there is nothing to remove.
        let _ = std::fs::remove_file(&draft);
        return Err(failed(path, source));
    }
    Ok(draft)
}

fn write_draft(draft: &Path, path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode & 0o600).open(draft)?;
    let mut mode = mode;
    match std::fs::metadata(path) {
        Ok(old) => {
            mode = old.mode() & 0o777;
            let new = file.metadata()?;
            if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
                // Root renews what belongs to PostgreSQL's user.
                fchown(&file, Some(old.uid()), Some(old.gid()))?;
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // The umask may have taken bits away that the file is meant to have.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
