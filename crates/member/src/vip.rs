//! The process beside the member that holds its virtual addresses: started, told what it may hold, and ended.
//!
//! The main loop says by which epoch the addresses may be here ([`Said`]), the lease's thread until when; nothing else gives the
//! process anything to hold. What it answers tells the main loop when they are gone ([`Seen`]).

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mainstay_core::Epoch;
use mainstay_core::view::Lease;
use mainstay_core::vip::Claim;
use mainstay_guard::Companion;
use mainstay_vip::{AddressState, Answer, Order, Rule};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use crate::clock;
use crate::configuration::Configuration;
use crate::lease::LeaseState;
use crate::machinery::Machinery;

/// A busy machine may take its time to start a process.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// It is told something so often, and answers each time.
const ORDER_INTERVAL: Duration = Duration::from_millis(200);
/// Silent for so long it is stopped or hung, and another one takes its place: the kernel takes the addresses away in a second or two.
const SILENCE: Duration = Duration::from_secs(1);
/// The pause before the next start; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// What was sent SIGKILL goes at once.
const KILL_PATIENCE: Duration = Duration::from_secs(2);
/// For the last addresses to be taken away, when the member ends.
const FAREWELL: Duration = Duration::from_millis(500);
const SUBJECT: &str = "vip";

/// Where it prints what it has to say.
pub fn log_file(configuration: &Configuration) -> PathBuf {
    configuration.directory.join("vip").join("vip.log")
}

/// The file whose lock it holds.
pub fn lock_file(configuration: &Configuration) -> PathBuf {
    configuration.directory.join("vip").join("lock")
}

/// What the main loop says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// By what the addresses may be here, as long as the lease of that epoch lasts.
    pub(crate) claim: Option<Claim>,
    /// The newest epoch under which nothing may be here any more.
    pub(crate) over: Epoch,
}

/// What the process says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// It waits for orders. Without it nothing is claimed.
    pub(crate) is_ready: bool,
    /// Nothing is here under this epoch or an older one, nor will be.
    pub(crate) released: Epoch,
    pub(crate) addresses: Vec<AddressState>,
    /// Nothing runs any more, nor will it.
    is_over: bool,
}

/// The member's end of the keeper.
#[derive(Debug)]
pub(crate) struct Addresses {
    said: watch::Sender<Said>,
    seen: watch::Sender<Seen>,
    is_stopping: watch::Sender<bool>,
}

impl Default for Addresses {
    fn default() -> Addresses {
        Addresses {
            said: watch::Sender::default(),
            seen: watch::Sender::default(),
            is_stopping: watch::Sender::new(false),
        }
    }
}

impl Addresses {
    pub(crate) fn say(&self, said: Said) {
        self.said.send_if_modified(|before| std::mem::replace(before, said) != said);
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Seen> {
        self.seen.subscribe()
    }

    /// Lets everything go, ends the process and waits for that.
    pub(crate) async fn end(&self) {
        self.is_stopping.send_replace(true);
        let longest = FAREWELL + KILL_PATIENCE * 2;
        let _ = timeout(longest, self.seen.subscribe().wait_for(|seen| seen.is_over)).await;
    }

    async fn stopping(&self) {
        let _ = self.is_stopping.subscribe().wait_for(|is_stopping| *is_stopping).await;
    }
}

/// Keeps the process running until the member ends. One from before this member's process is ended first: it would take the
/// addresses away under the new one when its last order ends.
pub(crate) async fn keep(machinery: Arc<Machinery>, lease: watch::Receiver<LeaseState>) {
    let rules = machinery.configuration.addresses.clone();
    end_running(&machinery.configuration).await;
    if !rules.is_empty() {
        Keeper { machinery: &machinery, lease, rules }.run().await;
        end_running(&machinery.configuration).await;
    }
    machinery.vip.seen.send_modify(|seen| (seen.is_ready, seen.is_over) = (false, true));
}

/// Ends the process, whoever has started it: the kernel takes the addresses away in a second or two.
pub(crate) async fn end_running(configuration: &Configuration) {
    let lock = lock_file(configuration);
    let ended = match Companion::find(&lock) {
        Ok(None) => return,
        Ok(Some(running)) => match running.kill() {
            Ok(()) => timeout(KILL_PATIENCE, running.ended()).await.map_err(|_| "it does not end".to_owned()),
            Err(error) => Err(error.to_string()),
        },
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = ended {
        warn!("an older process that holds virtual addresses cannot be ended: {error}");
    }
}

struct Keeper<'a> {
    machinery: &'a Machinery,
    lease: watch::Receiver<LeaseState>,
    rules: Vec<Rule>,
}

/// The process and both directions of what is said.
struct Process {
    child: Child,
    orders: OwnedWriteHalf,
    answers: Lines<BufReader<OwnedReadHalf>>,
    /// Why it cannot do what it is told, in its own words.
    error: Option<String>,
}

impl Keeper<'_> {
    async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let begun = Instant::now();
            let ended = self.turn().await;
            self.machinery.vip.seen.send_modify(|seen| seen.is_ready = false);
            let Err(why) = ended else { return };
            if begun.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            let log = log_file(&self.machinery.configuration);
            let note = format!("no virtual address can be held here: {why}; see {}", log.display());
            warn!("{note}; tried again in {} ms", pause.as_millis());
            self.machinery.note(SUBJECT, vec![note]);
            tokio::select! {
                () = self.machinery.vip.stopping() => return,
                () = sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            end_running(&self.machinery.configuration).await;
        }
    }

    /// One process from its start to its end. `Ok`: the member ends.
    async fn turn(&mut self) -> Result<(), String> {
        let mut process = self.start().map_err(|error| format!("its process cannot be started ({error})"))?;
        let machinery = self.machinery;
        let outcome = tokio::select! {
            outcome = self.converse(&mut process) => outcome,
            () = machinery.vip.stopping() => {
                farewell(&mut process).await;
                Ok(())
            }
        };
        machinery.vip.seen.send_modify(|seen| seen.is_ready = false);
        let Process { mut child, error, .. } = process;
        let _ = child.kill();
        // One that waits in the kernel ends when that lets it; nobody here waits with it.
        let waited = tokio::task::spawn_blocking(move || child.wait());
        let status = match timeout(KILL_PATIENCE, waited).await {
            Ok(Ok(Ok(status))) => status.to_string(),
            _ => "it is still there after SIGKILL".to_owned(),
        };
        outcome.map_err(|why| why.or(error).unwrap_or_else(|| format!("its process has ended ({status})")))
    }

    fn start(&self) -> io::Result<Process> {
        let configuration = &self.machinery.configuration;
        let log = log_file(configuration);
        let directory = log.parent().unwrap_or(&configuration.directory);
        std::fs::DirBuilder::new().recursive(true).mode(0o750).create(directory)?;
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let program = std::env::current_exe()?;
        let file = configuration.file.display().to_string();
        let arguments = ["vip", "hold", "--config", &file];
        let input = Stdio::from(OwnedFd::from(theirs));
        let child = mainstay_guard::spawn_reading(&program, &arguments, &log, input)?;
        let (answers, orders) = tokio::net::UnixStream::from_std(ours)?.into_split();
        Ok(Process { child, orders, answers: BufReader::new(answers).lines(), error: None })
    }

    /// Tells the process what it may hold, and the main loop what it answers. `None`: the process has ended.
    async fn converse(&mut self, process: &mut Process) -> Result<(), Option<String>> {
        let mut said = self.machinery.vip.said.subscribe();
        let mut patience = START_PATIENCE;
        // Since when an answer is due, and when this loop has turned last: who stands still hears nothing.
        let (mut asked_at, mut turned_at) = (Some(Instant::now()), Instant::now());
        let mut tick = tokio::time::interval(ORDER_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let line = tokio::select! {
                biased;
                Ok(()) = said.changed() => None,
                Ok(()) = self.lease.changed() => None,
                _ = tick.tick() => None,
                line = process.answers.next_line() => Some(line),
            };
            if turned_at.elapsed() > ORDER_INTERVAL * 2 {
                asked_at = asked_at.map(|_| Instant::now());
            }
            turned_at = Instant::now();
            if let Some(line) = line {
                let line = line.ok().flatten().ok_or(None)?;
                let answer: Answer = serde_json::from_str(&line).map_err(|error| Some(error.to_string()))?;
                process.error.clone_from(&answer.error);
                self.heard(answer);
                (asked_at, patience) = (None, SILENCE);
                continue;
            }
            if asked_at.is_some_and(|at| at.elapsed() > patience) {
                let ms = patience.as_millis();
                return Err(Some(format!("its process has not answered for {ms} ms, and is replaced")));
            }
            if patience == SILENCE {
                // In this order: a deadline from after the claim's end would be longer than the main loop counts with.
                let held = self.lease.borrow_and_update().held;
                let order = self.order(held, *said.borrow_and_update());
                tell(&mut process.orders, &order).await.map_err(|_| None)?;
                asked_at.get_or_insert_with(Instant::now);
            }
        }
    }

    fn heard(&self, answer: Answer) {
        let mut warnings: Vec<String> = answer.error.into_iter().collect();
        for state in &answer.addresses {
            let address = state.address;
            warnings.extend(state.error.as_ref().map(|error| format!("virtual address {address}: {error}")));
            warnings.extend(state.claimed_by.as_ref().map(|other| {
                format!(
                    "virtual address {address}: the machine with hardware address {other} says that it has it too; \
                     take it away there"
                )
            }));
        }
        self.machinery.note(SUBJECT, warnings);
        let released = Epoch(answer.released);
        self.machinery.vip.seen.send_if_modified(|seen| {
            let before = seen.clone();
            // One that holds nothing at all says why, and ends.
            seen.is_ready = !answer.addresses.is_empty();
            (seen.released, seen.addresses) = (seen.released.max(released), answer.addresses);
            *seen != before
        });
    }

    fn order(&self, held: Option<Lease>, said: Said) -> Order {
        match (said.claim, held) {
            (Some(claim), Some(lease)) if lease.epoch == claim.epoch && clock::now() < lease.deadline => {
                Order::Hold {
                    epoch: claim.epoch.0,
                    deadline_ns: lease.deadline.0,
                    addresses: self.rules.iter().map(|rule| rule.address).collect(),
                    careful: claim.careful,
                }
            }
            _ => Order::Release { epoch: said.over.0 },
        }
    }
}

async fn tell(orders: &mut OwnedWriteHalf, order: &Order) -> io::Result<()> {
    let mut line = serde_json::to_vec(order).map_err(io::Error::other)?;
    line.push(b'\n');
    match timeout(SILENCE, orders.write_all(&line)).await {
        Ok(written) => written,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Everything is let go, whatever the epoch, and that is waited for.
async fn farewell(process: &mut Process) {
    let all = Order::Release { epoch: u64::MAX };
    if tell(&mut process.orders, &all).await.is_err() {
        return;
    }
    let gone = async {
        while let Ok(Some(line)) = process.answers.next_line().await {
            let answer: Option<Answer> = serde_json::from_str(&line).ok();
            if answer.is_none_or(|answer| answer.released == u64::MAX) {
                info!("the virtual addresses are let go");
                return;
            }
        }
    };
    let _ = timeout(FAREWELL, gone).await;
}
