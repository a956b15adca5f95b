//! The lease's own thread: it answers renewals, sends them, and says when a lease has run out.
//!
//! Nothing on it ever waits for a disk, for SQL or for the member's main loop, so that a busy or blocked member neither
//! loses a lease nor lets one run out. The promise that a lease has run out is made durable on another thread.

mod armed;
mod voter;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mainstay_core::lease::{self, Answer, Grantor, Holder};
use mainstay_core::record::Record;
use mainstay_core::view::{Lease, RunOut};
use mainstay_core::{Epoch, MemberId, Now};
use mainstay_net::{Channel, Detached, Endpoint, Link};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tracing::debug;

use crate::clock;
use crate::promise::Promises;

/// How often the other voters are asked whether the lease has run out at them too.
const QUESTION_INTERVAL: Duration = Duration::from_millis(50);

/// What is asked on the lease channel.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Question {
    Renew {
        epoch: Epoch,
    },
    /// Has it run out for now? A renewal is answered still.
    Expired {
        epoch: Epoch,
    },
    /// Has it run out for good?
    RunOut {
        epoch: Epoch,
    },
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reply {
    Renewal(Answer),
    RunOut(bool),
}

/// What the lease thread is told.
enum Command {
    Record(Arc<Record>),
    Granted { epoch: Epoch, requested_at: Now },
    Resumed { epoch: Epoch, deadline: Now },
    Relinquish { epoch: Epoch },
    Guard(u64),
    Incoming(Box<Detached>),
}

/// What the lease thread says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LeaseState {
    pub(crate) held: Option<Lease>,
    pub(crate) run_out: RunOut,
}

/// The member's end of the thread.
#[derive(Clone)]
pub(crate) struct LeaseThread {
    commands: mpsc::UnboundedSender<Command>,
    state: watch::Receiver<LeaseState>,
}

impl LeaseThread {
    /// Starts the thread. It ends when every handle is gone.
    pub(crate) fn start(
        endpoint: Endpoint,
        promises: Promises,
        lease: Duration,
        guard_directory: PathBuf,
    ) -> std::io::Result<LeaseThread> {
        let (commands, queue) = mpsc::unbounded_channel();
        let (publish, state) = watch::channel(LeaseState::default());
        let promised = promises.run_out()?;
        let serial = promises.voters()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("lease".to_owned()).spawn(move || {
            let grantor = Grantor::new(clock::now(), lease, promised);
            let local = tokio::task::LocalSet::new();
            let (guard, generation) = watch::channel(0);
            let (arm, deadline) = watch::channel(None);
            local.spawn_local(armed::keep(guard_directory, deadline, generation));
            let mut inner = Inner::new(endpoint.member().clone(), lease, grantor, arm, publish);
            (inner.seen, inner.durable) = (serial, serial);
            local.block_on(&runtime, run(endpoint, promises, Rc::new(RefCell::new(inner)), queue, guard));
        })?;
        Ok(LeaseThread { commands, state })
    }

    pub(crate) fn state(&self) -> watch::Receiver<LeaseState> {
        self.state.clone()
    }

    pub(crate) fn record(&self, record: Arc<Record>) {
        self.tell(Command::Record(record));
    }

    pub(crate) fn granted(&self, epoch: Epoch, requested_at: Now) {
        self.tell(Command::Granted { epoch, requested_at });
    }

    pub(crate) fn resumed(&self, epoch: Epoch, deadline: Now) {
        self.tell(Command::Resumed { epoch, deadline });
    }

    pub(crate) fn relinquish(&self, epoch: Epoch) {
        self.tell(Command::Relinquish { epoch });
    }

    /// The member has connected to its guard, under this generation: the lease's own connection may follow.
    pub(crate) fn guard(&self, generation: u64) {
        self.tell(Command::Guard(generation));
    }

    pub(crate) fn serve(&self, incoming: Detached) {
        self.tell(Command::Incoming(Box::new(incoming)));
    }

    fn tell(&self, command: Command) {
        // The thread lives as long as a handle does; it can only be gone in the last moments of the process.
        let _ = self.commands.send(command);
    }
}

/// Everything on the thread, shared by its tasks; never borrowed across an `await`.
struct Inner {
    me: MemberId,
    lease: Duration,
    grantor: Grantor,
    record: Arc<Record>,
    /// When this thread learnt who votes by the record.
    learnt_at: Now,
    /// The newest change of the voters that this member has seen, and the newest that its disk keeps.
    seen: u64,
    durable: u64,
    holder: Option<Holder>,
    relinquished: Epoch,
    /// Voters that have said, for good, that the lease of the record's epoch has run out.
    run_out: BTreeSet<MemberId>,
    /// To the voters, and to the outgoing ones, at the addresses that the record has for them.
    /// With their Raft ids, which no two machines share.
    links: BTreeMap<MemberId, ((SocketAddr, u64), Link)>,
    /// The newest epoch and deadline that the guard should know.
    arm: watch::Sender<Option<(Epoch, Now)>>,
    publish: watch::Sender<LeaseState>,
}

type Shared = Rc<RefCell<Inner>>;

async fn run(
    endpoint: Endpoint,
    promises: Promises,
    shared: Shared,
    mut queue: mpsc::UnboundedReceiver<Command>,
    guard: watch::Sender<u64>,
) {
    let lease = shared.borrow().lease;
    tokio::task::spawn_local(renew(shared.clone()));
    tokio::task::spawn_local(voter::keep_seen(shared.clone(), promises.clone()));
    tokio::task::spawn_local(voter::watch_run_out(shared.clone(), promises));
    while let Some(command) = queue.recv().await {
        match command {
            Command::Record(record) => shared.borrow_mut().learn(&endpoint, record),
            Command::Granted { epoch, requested_at } => {
                shared.borrow_mut().hold(Holder::granted(epoch, lease, requested_at));
                renew_once(&shared);
            }
            Command::Resumed { epoch, deadline } => {
                shared.borrow_mut().hold(Holder::resumed(epoch, lease, deadline, 0));
                renew_once(&shared);
            }
            Command::Relinquish { epoch } => shared.borrow_mut().relinquish(epoch),
            Command::Guard(generation) => {
                guard.send_replace(generation);
            }
            Command::Incoming(incoming) => voter::serve(shared.clone(), *incoming),
        }
    }
}

impl Inner {
    fn new(
        me: MemberId,
        lease: Duration,
        grantor: Grantor,
        arm: watch::Sender<Option<(Epoch, Now)>>,
        publish: watch::Sender<LeaseState>,
    ) -> Inner {
        Inner {
            me,
            lease,
            grantor,
            record: Arc::default(),
            learnt_at: Now(0),
            seen: 0,
            durable: 0,
            holder: None,
            relinquished: Epoch(0),
            run_out: BTreeSet::new(),
            links: BTreeMap::new(),
            arm,
            publish,
        }
    }

    fn learn(&mut self, endpoint: &Endpoint, record: Arc<Record>) {
        self.grantor.learn(clock::now(), &record);
        let serial = record.membership.serial;
        let others = serial != self.record.membership.serial;
        if record.epoch != self.record.epoch || record.tenure().is_none() || others {
            self.run_out.clear();
        }
        let over = |holder: &Holder| {
            holder.epoch() < record.epoch || holder.epoch() == record.epoch && record.tenure().is_none()
        };
        if self.holder.as_ref().is_some_and(over) {
            self.holder = None;
        }
        if others {
            self.learnt_at = clock::now();
        }
        self.seen = self.seen.max(serial);
        if let Some(holder) = &mut self.holder {
            holder.has_seen(self.seen);
        }
        self.link(endpoint, &record);
        self.record = record;
        self.publish();
    }

    fn link(&mut self, endpoint: &Endpoint, record: &Record) {
        let asked = record.voters().chain(record.outgoing()).filter(|voter| **voter != self.me);
        let place = |voter: &MemberId| record.members.get(voter).map(|row| (row.address, row.raft_id));
        let wanted: BTreeMap<&MemberId, (SocketAddr, u64)> =
            asked.filter_map(|voter| Some((voter, place(voter)?))).collect();
        self.links.retain(|voter, (place, _)| wanted.get(voter) == Some(place));
        for (voter, place) in wanted {
            self.links
                .entry(voter.clone())
                .or_insert_with(|| (place, endpoint.link(voter.clone(), place.0, Channel::Lease)));
        }
    }

    fn awaits_new_voters(&self) -> bool {
        let rests = |holder: &Holder| holder.rests_on(&self.record, self.learnt_at, self.durable);
        self.record.outgoing().next().is_some() && self.holder.as_ref().is_some_and(|holder| !rests(holder))
    }

    /// Whether this member is one of the voters, or of the outgoing ones.
    fn votes(&self) -> bool {
        self.record.voters().chain(self.record.outgoing()).any(|voter| *voter == self.me)
    }

    fn links(&self) -> Vec<(MemberId, Link)> {
        self.links.iter().map(|(voter, (_, link))| (voter.clone(), link.clone())).collect()
    }

    fn hold(&mut self, mut holder: Holder) {
        holder.has_seen(self.seen);
        let newer = self.holder.as_ref().is_none_or(|held| held.epoch() < holder.epoch());
        if newer && holder.epoch() > self.relinquished {
            self.holder = Some(holder);
            self.publish();
        }
    }

    fn relinquish(&mut self, epoch: Epoch) {
        self.relinquished = self.relinquished.max(epoch);
        if self.holder.as_ref().is_some_and(|holder| holder.epoch() <= epoch) {
            self.holder = None;
            self.publish();
        }
    }

    fn answered(&mut self, voter: &MemberId, epoch: Epoch, sent: Now) {
        if let Some(holder) = self.holder.as_mut().filter(|holder| holder.epoch() == epoch) {
            holder.answered(voter, sent);
            self.publish();
        }
    }

    /// Tells the member what is held and what has run out, and the guard how long it may go on.
    fn publish(&mut self) {
        let usable = lease::usable(self.lease);
        let held = self.holder.as_ref().map(|holder| {
            let deadline = holder.deadline(&self.record);
            let rests_on = holder.rests_on(&self.record, self.learnt_at, self.durable);
            Lease {
                epoch: holder.epoch(),
                deadline,
                renewed_at: deadline.minus(usable),
                rests_on: rests_on.then_some(self.record.membership.serial),
            }
        });
        if let Some(lease) = held {
            let wanted = Some((lease.epoch, lease.deadline));
            // While new voters have not answered yet less is held than the guard knows of already, which stands.
            self.arm.send_if_modified(|armed| {
                let is_later = wanted > *armed;
                if is_later {
                    *armed = wanted;
                }
                is_later
            });
        }
        let run_out = RunOut {
            epoch: self.record.epoch,
            serial: self.record.membership.serial,
            voters: self.run_out.clone(),
        };
        let state = LeaseState { held, run_out };
        self.publish.send_if_modified(|published| {
            let changed = *published != state;
            *published = state;
            changed
        });
    }
}

/// Sends a renewal to every voter each sixth of a lease, while this member holds one.
async fn renew(shared: Shared) {
    let interval = lease::renewal_interval(shared.borrow().lease);
    loop {
        // New voters are asked at once, and again until the lease rests on them.
        let pause = if shared.borrow().awaits_new_voters() { QUESTION_INTERVAL } else { interval };
        tokio::time::sleep(pause).await;
        renew_once(&shared);
    }
}

fn renew_once(shared: &Shared) {
    let (epoch, lease) = match &shared.borrow().holder {
        Some(holder) => (holder.epoch(), shared.borrow().lease),
        None => return,
    };
    let sent = clock::now();
    let (me, votes) = {
        let inner = shared.borrow();
        (inner.me.clone(), inner.votes())
    };
    if votes {
        let mut inner = shared.borrow_mut();
        if inner.grantor.renew(clock::now(), epoch) == Answer::Promised {
            inner.answered(&me, epoch, sent);
        }
    }
    let links = shared.borrow().links();
    for (voter, link) in links {
        let shared = shared.clone();
        tokio::task::spawn_local(async move {
            match ask(&link, Question::Renew { epoch }, lease / 3).await {
                Some(Reply::Renewal(Answer::Promised)) => shared.borrow_mut().answered(&voter, epoch, sent),
                Some(reply) => debug!(%voter, %epoch, ?reply, "renewal not promised"),
                None => {}
            }
        });
    }
}

async fn ask(link: &Link, question: Question, timeout: Duration) -> Option<Reply> {
    let body = serde_json::to_vec(&question).expect("a question is representable in JSON");
    let answer = link.call("lease", &body, timeout).await.ok()?;
    serde_json::from_slice(&answer).ok()
}
