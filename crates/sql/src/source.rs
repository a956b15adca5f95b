//! Who tells the proxy where statements go, and who may log in.

use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::settings::Settings;

/// Who is asked.
#[derive(Clone, Debug)]
pub enum Source {
    /// The member on this machine, by its control socket.
    Member(PathBuf),
    /// Any member, over the network.
    Cluster(Arc<Cluster>),
}

/// A cluster as a machine that is no member of it knows it.
pub struct Cluster {
    /// What the members know this proxy by: a secret.
    token: String,
    /// Where they answer, the one first that has answered last.
    members: Mutex<Vec<SocketAddr>>,
    read: Box<dyn Fn() -> Result<Settings, String> + Send + Sync>,
    /// Where the list is kept for the next start; it was opened while this process might.
    kept: Option<std::fs::File>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Cluster").field("members", &self.members).finish_non_exhaustive()
    }
}

impl Cluster {
    /// `kept`, if there is one, is rewritten whenever the members are others.
    /// `read` reads the settings again; its error names file, line and remedy.
    pub fn new(
        token: String,
        members: Vec<SocketAddr>,
        kept: Option<std::fs::File>,
        read: impl Fn() -> Result<Settings, String> + Send + Sync + 'static,
    ) -> Cluster {
        Cluster { token, members: Mutex::new(members), read: Box::new(read), kept }
    }

    pub(crate) fn read_settings(&self) -> Result<Settings, String> {
        (self.read)()
    }

    /// What [`Cluster`] keeps of the members: a line for each address.
    pub fn write(members: &[SocketAddr]) -> String {
        members.iter().map(|member| format!("{member}\n")).collect()
    }

    /// Reads what [`Cluster`] keeps. A list that was torn in the middle of a write has the addresses that can be read.
    pub fn read(text: &str) -> Vec<SocketAddr> {
        text.lines().filter_map(|line| line.trim().parse().ok()).collect()
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Who is asked now.
    pub(crate) fn first(&self) -> Option<SocketAddr> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner).first().copied()
    }

    /// Lets another one be asked than `failed`.
    pub(crate) fn pass_over(&self, failed: SocketAddr) {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        if members.first() == Some(&failed) {
            members.rotate_left(1);
        }
    }

    /// Takes in who the members are, by the word of one of them. The one that is asked goes on to be.
    pub(crate) fn learn(&self, apis: &[SocketAddr]) -> io::Result<()> {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = members.len() == apis.len() && apis.iter().all(|api| members.contains(api));
        if apis.is_empty() || is_same {
            return Ok(());
        }
        let first = members.first().copied().filter(|first| apis.contains(first));
        let others = apis.iter().copied().filter(|api| Some(*api) != first);
        *members = first.into_iter().chain(others).collect();
        match &self.kept {
            Some(file) => keep(file, &Cluster::write(&members)),
            None => Ok(()),
        }
    }
}

/// In place: this process may not make files any more.
fn keep(mut file: &std::fs::File, text: &str) -> io::Result<()> {
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)?;
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn the_next_one_is_asked_when_one_does_not_answer() {
        let cluster =
            Cluster::new("secret".to_owned(), vec![address(1), address(2)], None, || Err(String::new()));
        cluster.pass_over(address(1));
        assert_eq!(cluster.first(), Some(address(2)));
        // Somebody else has passed it over already.
        cluster.pass_over(address(1));
        assert_eq!(cluster.first(), Some(address(2)));
        assert!(!format!("{cluster:?}").contains("secret"));
    }

    #[test]
    fn the_members_are_kept_for_the_next_start() {
        let path = std::env::temp_dir().join(format!("mainstay-members-{}", std::process::id()));
        std::fs::write(&path, "127.0.0.1:1\n127.0.0.1:2\n127.0.0.1:3\n").unwrap();
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let cluster =
            Cluster::new(String::new(), vec![address(2), address(1)], Some(file), || Err(String::new()));
        cluster.learn(&[]).unwrap();
        cluster.learn(&[address(7), address(2)]).unwrap();
        assert_eq!(cluster.first(), Some(address(2)));
        let kept = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(Cluster::read(&kept), [address(2), address(7)]);
        assert_eq!(Cluster::read("127.0.0.1:1\n127.0.0."), [address(1)]);
    }
}
