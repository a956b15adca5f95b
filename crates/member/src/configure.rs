//! Keeping PostgreSQL's configuration as the record and the member's own file want it, off the failover's path.
//!
//! Level and not edge: what is wanted is compared with what stands in the files, and what runs with both, every few seconds and
//! whenever something has changed.

mod accept;
mod reload;

use std::sync::Arc;
use std::time::Duration;

use mainstay_core::view::RestartNeed;
use mainstay_guard::Pid;
use mainstay_postgres::configuration::{Catalogue, Held};
use mainstay_postgres::session::Settings;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, info, warn};

pub use accept::Judged;
pub(crate) use accept::judge;
pub use reload::{Reload, ReloadAnswer};

use crate::machinery::{Machinery, failed};
use crate::status::{AlteredParameter, PendingParameter};

/// How often it is looked whether PostgreSQL runs with what it should.
const LOOK_INTERVAL: Duration = Duration::from_secs(4);
/// While lower values wait for the primary, or the server was just started.
const BUSY_INTERVAL: Duration = Duration::from_millis(500);

/// What was last seen of the configuration, for decisions and for people.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Configured {
    /// The postmaster that was looked at.
    pub(crate) postmaster: Option<Pid>,
    pub(crate) need: RestartNeed,
    pub(crate) pending: Vec<PendingParameter>,
    pub(crate) altered: Vec<AlteredParameter>,
    /// The number of the record's configuration that is in use here.
    pub(crate) serial: u64,
    /// Why a newer one, or a line of it, is not.
    pub(crate) errors: Vec<String>,
}

/// Asks the keeper to read the member's own file again, and is answered what that changes.
pub(crate) type Ask = oneshot::Sender<Result<ReloadAnswer, String>>;

/// Everything that is needed to judge and to change the configuration.
#[derive(Clone)]
pub(crate) struct Configure {
    pub(crate) machinery: Arc<Machinery>,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) asks: mpsc::Sender<Option<Ask>>,
    pub(crate) seen: watch::Receiver<Arc<Configured>>,
}

impl Configure {
    /// Begins to keep the configuration.
    pub(crate) async fn start(machinery: Arc<Machinery>, reload: Reload) -> Configure {
        let catalogue = match machinery.tools() {
            Ok(tools) => Catalogue::read(tools).await.unwrap_or_else(|error| {
                warn!("PostgreSQL does not describe its parameters: {}", failed(error));
                Catalogue::default()
            }),
            Err(_) => Catalogue::default(),
        };
        let (asks, asked) = mpsc::channel(4);
        let (publish, seen) = watch::channel(Arc::default());
        let configure = Configure { machinery, catalogue: Arc::new(catalogue), asks, seen };
        let keeper = Keeper {
            configure: configure.clone(),
            reload,
            publish,
            rejected: None,
            looked_at: None,
            // An earlier life of this process may have written and not told.
            unread: Some(0),
            hurry: false,
        };
        tokio::spawn(keeper.run(asked));
        configure
    }
}

struct Keeper {
    configure: Configure,
    reload: Reload,
    publish: watch::Sender<Arc<Configured>>,
    /// The record's newest configuration, if this PostgreSQL refuses it, and why.
    rejected: Option<(u64, String)>,
    looked_at: Option<Pid>,
    /// What was written and PostgreSQL may not have read yet.
    unread: Option<u64>,
    /// Whether something is expected to change soon.
    hurry: bool,
}

impl Keeper {
    async fn run(mut self, mut asked: mpsc::Receiver<Option<Ask>>) {
        let mut record = self.configure.machinery.record.clone();
        loop {
            if let Err(error) = self.keep().await {
                debug!("the configuration was not brought up to date: {error}");
            }
            let interval = if self.hurry { BUSY_INTERVAL } else { LOOK_INTERVAL };
            tokio::select! {
                changed = record.changed() => if changed.is_err() { return },
                ask = asked.recv() => match ask {
                    Some(ask) => self.read_file(ask).await,
                    None => return,
                },
                () = tokio::time::sleep(interval) => {}
                () = self.another_server() => {}
            }
        }
    }

    async fn another_server(&self) {
        let mut guard = self.configure.machinery.guard.clone();
        let known = self.looked_at;
        let is_new = |postmaster: Option<Pid>| postmaster.is_some() && postmaster != known;
        let seen = guard
            .wait_for(|state| is_new(state.status.as_ref().and_then(|status| status.postmaster)))
            .await
            .is_ok();
        if seen {
            tokio::time::sleep(BUSY_INTERVAL).await;
        } else {
            std::future::pending::<()>().await;
        }
    }

    async fn read_file(&mut self, ask: Option<Ask>) {
        let answer = reload::reload(&self.configure, &self.reload).await;
        match &answer {
            Ok(answer) => info!("the configuration file was read again: {answer}"),
            Err(error) => warn!("the configuration file is not taken, nothing has changed: {error}"),
        }
        if let Some(ask) = ask {
            let _ = ask.send(answer);
        }
    }

    /// One look, from what is wanted to what runs.
    async fn keep(&mut self) -> Result<(), crate::machinery::WorkError> {
        let machinery = Arc::clone(&self.configure.machinery);
        if machinery.tools().is_err() {
            return Ok(());
        }
        self.take_record().await;
        let postmaster = postmaster(&machinery);
        if self.looked_at != postmaster || self.hurry || machinery.least().is_empty() {
            machinery.look_at_least().await;
        }
        if let Some(written) = machinery.rewrite(true).await? {
            self.unread = Some(self.unread.unwrap_or(0).max(written));
        }
        self.looked_at = None;
        self.hurry = true;
        let Some(postmaster) = postmaster else {
            self.tell(None, &Settings::default());
            return Ok(());
        };
        match self.unread {
            Some(0) => machinery.guard()?.reload().await.map_err(failed)?,
            Some(generation) => machinery.reload(generation).await?,
            None => {}
        }
        self.unread = None;
        let session = machinery.session().await?;
        let settings = session.settings().await.map_err(failed)?;
        if self::postmaster(&machinery) == Some(postmaster) {
            self.looked_at = Some(postmaster);
            self.tell(Some(postmaster), &settings);
        }
        Ok(())
    }

    /// A configuration that this PostgreSQL would not take is not written: it would keep it from starting.
    async fn take_record(&mut self) {
        let machinery = &self.configure.machinery;
        let record = Arc::clone(&machinery.record.borrow());
        let wanted = crate::machinery::Accepted {
            serial: record.parameters.serial,
            set: record.parameters.set.clone(),
        };
        let known = self.rejected.as_ref().is_some_and(|(serial, _)| *serial == wanted.serial);
        let accepted = machinery.accepted();
        // What the cluster was founded with is on its way into the record.
        let is_founding = wanted.serial == 0 && accepted.serial == crate::machinery::FIRST;
        // An empty record is one that was not read yet.
        if record.format == 0 || *accepted == wanted || known || is_founding {
            return;
        }
        let serial = wanted.serial;
        let refused = accept::try_out(&self.configure, &wanted.set, &machinery.file_part()).await.err();
        let refused = match refused {
            Some(why) => Some(why),
            None => machinery.accept(wanted).await.err().map(|error| error.0),
        };
        match refused {
            Some(why) => {
                warn!("configuration {serial} is not used here: {why}");
                self.rejected = Some((serial, why));
            }
            None => {
                info!("configuration {serial} is used from now on");
                self.rejected = None;
            }
        }
    }

    fn tell(&mut self, postmaster: Option<Pid>, settings: &Settings) {
        let machinery = &self.configure.machinery;
        let is_primary = machinery.is_to_be_primary();
        let held = machinery.held();
        let of_file: Vec<PendingParameter> = settings
            .settings
            .iter()
            .filter(|setting| setting.pending_restart)
            .map(|setting| PendingParameter {
                name: setting.name.clone(),
                running: setting.value.clone(),
                wanted: setting.file.clone(),
                waits_for: "a restart of PostgreSQL".to_owned(),
            })
            .collect();
        let waits = !held.is_empty();
        let need = RestartNeed {
            known: postmaster.is_some(),
            serial: machinery.record.borrow().parameters.serial,
            pending: !of_file.is_empty() || is_primary && waits,
            lowers: is_primary && waits,
            waits: !is_primary && waits,
        };
        let altered = settings
            .settings
            .iter()
            .filter(|setting| setting.by_alter_system)
            .map(|setting| AlteredParameter { name: setting.name.clone(), value: setting.value.clone() });
        let rejected = self.rejected.as_ref().map(|(serial, why)| {
            format!("configuration {serial} is not used here: {why}; correct it with: mainstay config edit")
        });
        let configured = Configured {
            postmaster,
            need,
            pending: of_file.into_iter().chain(held.iter().map(|held| waiting(held, is_primary))).collect(),
            altered: altered.collect(),
            serial: machinery.accepted().serial,
            errors: rejected.into_iter().chain(settings.errors.clone()).collect(),
        };
        self.hurry = waits && !is_primary || postmaster.is_none();
        self.publish.send_if_modified(|published| {
            let changed = **published != configured;
            if changed {
                *published = Arc::new(configured);
            }
            changed
        });
    }
}

fn waiting(held: &Held, is_primary: bool) -> PendingParameter {
    let waits_for = match is_primary {
        true => "a restart of PostgreSQL, on the primary first",
        false => "the primary, which must have the lower value first",
    };
    PendingParameter {
        name: held.name.to_owned(),
        running: held.kept.to_string(),
        wanted: Some(held.wanted.to_string()),
        waits_for: waits_for.to_owned(),
    }
}

fn postmaster(machinery: &Machinery) -> Option<Pid> {
    machinery.guard.borrow().status.as_ref().and_then(|status| status.postmaster)
}
