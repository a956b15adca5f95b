//! Where a member's files lie, and who may read and write them.

use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, geteuid};

use crate::durable::{Access, FileError, sync_directory};
use crate::tools::RunAs;

/// Room for a Unix socket's path, `sun_path` without the final zero.
const SOCKET_PATH_BYTES: usize = 107;

/// What is wrong with a member's directories.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    #[error("{path} belongs to user {found} instead of {wanted}: run `chown {wanted} {path}`")]
    Owner { path: PathBuf, found: u32, wanted: u32 },
    #[error("{path} has mode {found:04o}, which lets others in: run `chmod {wanted:04o} {path}`")]
    Mode { path: PathBuf, found: u32, wanted: u32 },
    #[error("{path} is no directory: move it away")]
    NotADirectory { path: PathBuf },
    #[error(
        "the user {user} cannot enter {path} (mode {mode:04o}): choose another directory or run `chmod o+x {path}`"
    )]
    Unreachable { path: PathBuf, user: String, mode: u32 },
    #[error("{path} must be an absolute path")]
    Relative { path: PathBuf },
    #[error("the socket's path {path} is longer than {SOCKET_PATH_BYTES} bytes: choose a shorter directory")]
    SocketPathTooLong { path: PathBuf },
    #[error(transparent)]
    File(#[from] FileError),
}

/// The paths of one member.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
    data: PathBuf,
    wal: Option<PathBuf>,
    run_as: Option<RunAs>,
}

impl Layout {
    /// `root` is the member's directory, `data` PGDATA (default `root/data`), `wal` a separate directory for
    /// `pg_wal`, if wanted. All must be absolute.
    pub fn new(
        root: &Path,
        data: Option<&Path>,
        wal: Option<&Path>,
        run_as: Option<RunAs>,
    ) -> Result<Layout, LayoutError> {
        let data = data.map_or_else(|| root.join("data"), Path::to_owned);
        if let Some(path) =
            [Some(root), Some(&data), wal].into_iter().flatten().find(|path| !path.is_absolute())
        {
            return Err(LayoutError::Relative { path: path.to_owned() });
        }
        Ok(Layout { root: root.to_owned(), data, wal: wal.map(Path::to_owned), run_as })
    }

    /// The member's own directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// PGDATA.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The separate directory for `pg_wal`, if one is configured.
    pub fn wal(&self) -> Option<&Path> {
        self.wal.as_deref()
    }

    /// `pg_wal` inside PGDATA, which may be a link to [`Layout::wal`].
    pub fn pg_wal(&self) -> PathBuf {
        self.data.join("pg_wal")
    }

    /// Generated configuration: outside PGDATA, so that no clone or rewind brings another member's.
    pub fn configuration_dir(&self) -> PathBuf {
        self.root.join("postgresql")
    }

    pub fn configuration_file(&self) -> PathBuf {
        self.configuration_dir().join("postgresql.conf")
    }

    pub fn hba_file(&self) -> PathBuf {
        self.configuration_dir().join("pg_hba.conf")
    }

    pub fn ident_file(&self) -> PathBuf {
        self.configuration_dir().join("pg_ident.conf")
    }

    /// The replication role's password, as libpq reads it. Its absence seals a standby.
    pub fn passfile(&self) -> PathBuf {
        self.configuration_dir().join("passfile")
    }

    /// This member's certificate for PostgreSQL's TLS.
    pub fn certificate(&self) -> PathBuf {
        self.configuration_dir().join("server.crt")
    }

    /// The key of [`Layout::certificate`].
    pub fn key(&self) -> PathBuf {
        self.configuration_dir().join("server.key")
    }

    /// The authority that signed every member's certificate.
    pub fn authority(&self) -> PathBuf {
        self.configuration_dir().join("authority.crt")
    }

    /// The directory of PostgreSQL's Unix socket.
    pub fn socket_dir(&self) -> PathBuf {
        self.root.join("run")
    }

    /// What PostgreSQL prints.
    pub fn log_file(&self) -> PathBuf {
        self.root.join("log/postgresql.log")
    }

    /// Mainstay's own small files.
    pub fn state_dir(&self) -> PathBuf {
        self.root.join("state")
    }

    /// WAL that a rewind or clone would destroy is kept below this directory.
    pub fn diverged_dir(&self) -> PathBuf {
        self.root.join("diverged")
    }

    pub fn run_as(&self) -> Option<&RunAs> {
        self.run_as.as_ref()
    }

    /// The user id that PostgreSQL's own files belong to.
    pub fn server_uid(&self) -> u32 {
        self.server_owner().map_or(geteuid().as_raw(), |(uid, _)| uid)
    }

    /// A file that PostgreSQL's user owns and alone may read.
    pub fn server_access(&self) -> Access {
        Access { mode: 0o600, owner: self.server_owner() }
    }

    /// A file of ours that PostgreSQL may read but not write.
    pub fn configuration_access(&self) -> Access {
        match self.server_owner() {
            Some((_, gid)) => Access { mode: 0o640, owner: Some((0, gid)) },
            None => Access { mode: 0o600, owner: None },
        }
    }

    /// A file for ourselves alone.
    pub fn private_access(&self) -> Access {
        Access { mode: 0o600, owner: None }
    }

    /// Creates what is missing and checks owner and mode of what is there. Idempotent.
    pub fn create(&self, port: u16) -> Result<(), LayoutError> {
        let socket = self.socket_dir().join(format!(".s.PGSQL.{port}"));
        if socket.as_os_str().len() > SOCKET_PATH_BYTES {
            return Err(LayoutError::SocketPathTooLong { path: socket });
        }
        let server = self.server_owner();
        let ours = server.map(|(_, gid)| (geteuid().as_raw(), gid));
        // Applications of other users must reach the socket: everybody may pass, only the server's group may list.
        self.ensure_directory(&self.root, 0o751, ours)?;
        self.ensure_directory(&self.configuration_dir(), 0o750, ours)?;
        self.ensure_directory(&self.state_dir(), 0o700, None)?;
        self.ensure_directory(&self.diverged_dir(), 0o700, None)?;
        // Applications on this machine connect through it.
        self.ensure_directory(&self.socket_dir(), 0o755, server)?;
        self.ensure_directory(&self.root.join("log"), 0o750, server)?;
        self.create_data_directories()?;
        self.check_reachable(&self.root)
    }

    /// Creates PGDATA and the separate WAL directory, if they are missing: PostgreSQL's user cannot always.
    pub(crate) fn create_data_directories(&self) -> Result<(), LayoutError> {
        for directory in [Some(self.data()), self.wal()].into_iter().flatten() {
            self.ensure_directory(directory, 0o700, self.server_owner())?;
            self.check_reachable(directory)?;
        }
        Ok(())
    }

    fn server_owner(&self) -> Option<(u32, u32)> {
        self.run_as.as_ref().filter(|_| geteuid().is_root()).map(|user| (user.uid, user.gid))
    }

    fn ensure_directory(&self, path: &Path, mode: u32, owner: Option<(u32, u32)>) -> Result<(), LayoutError> {
        match std::fs::metadata(path) {
            Ok(metadata) => return check_directory(path, &metadata, mode, owner),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(FileError::new("look at", path, e).into()),
        }
        let created =
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path.parent().unwrap_or(path));
        created.map_err(|e| FileError::new("create the parent of", path, e))?;
        std::fs::DirBuilder::new().mode(0o700).create(path).map_err(|e| FileError::new("create", path, e))?;
        if let Some((uid, gid)) = owner {
            let chown = nix::unistd::chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            chown.map_err(|e| FileError::new("change the owner of", path, e.into()))?;
        }
        let permissions = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path, permissions)
            .map_err(|e| FileError::new("change the mode of", path, e))?;
        sync_directory(path.parent().unwrap_or(path))?;
        Ok(())
    }

    /// Whether PostgreSQL's user can enter every directory above `path`.
    fn check_reachable(&self, path: &Path) -> Result<(), LayoutError> {
        let Some(user) = self.run_as.as_ref().filter(|_| geteuid().is_root()) else { return Ok(()) };
        for ancestor in path.ancestors() {
            let metadata = std::fs::metadata(ancestor).map_err(|e| FileError::new("look at", ancestor, e))?;
            let mode = metadata.permissions().mode();
            let bit = if metadata.uid() == user.uid {
                0o100
            } else if metadata.gid() == user.gid || user.groups.contains(&metadata.gid()) {
                0o010
            } else {
                0o001
            };
            if mode & bit == 0 {
                let (path, user) = (ancestor.to_owned(), user.name());
                return Err(LayoutError::Unreachable { path, user, mode: mode & 0o7777 });
            }
        }
        Ok(())
    }
}

fn check_directory(
    path: &Path,
    metadata: &std::fs::Metadata,
    mode: u32,
    owner: Option<(u32, u32)>,
) -> Result<(), LayoutError> {
    let path = path.to_owned();
    if !metadata.is_dir() {
        return Err(LayoutError::NotADirectory { path });
    }
    let wanted = owner.map_or(geteuid().as_raw(), |(uid, _)| uid);
    if metadata.uid() != wanted {
        return Err(LayoutError::Owner { path, found: metadata.uid(), wanted });
    }
    let found = metadata.permissions().mode() & 0o7777;
    // PGDATA may be readable to its group (initdb --allow-group-access); nothing may be writable to others.
    let forbidden = if mode == 0o700 { 0o027 } else { 0o022 };
    if found & forbidden != 0 {
        return Err(LayoutError::Mode { path, found, wanted: mode });
    }
    Ok(())
}
