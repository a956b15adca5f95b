//! One client's session: it borrows a server for each transaction, and outlives all of them.

mod borrow;
mod from_client;
mod from_server;
mod greeting;
mod hearing;
mod lost;
mod prepared;
mod relay;
mod slow;
mod told;

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;

use mainstay_pgwire::backend::{self, Report};

use crate::dial::FOR_READERS;
use crate::listening::Subscription;
use crate::pool::{Access, Pool};
use crate::refusal;
use crate::server::{AskError, Server};
use crate::session_settings::{self, Pin, SessionSettings};
use crate::settings::PoolMode;
use crate::sql_text::Traits;
use crate::statements::{Statement, Told};
use crate::stream::Connection;
use crate::worker::{Activity, ClientEntry, Worker};
use borrow::{prepare, set};
pub(crate) use greeting::greeting;
use lost::{Lost, Unanswered};
use told::Held;

/// What the session cannot do while it looks at one batch of bytes.
enum Step {
    /// The client has something for a server, and none is idle.
    NeedServer,
    /// The transaction has ended, and the session may have left something behind.
    Inspect,
    /// The server has to describe a statement before it is bound. The `Bind` is still in `rest`.
    Held,
    /// The server connection ended, for this reason.
    ServerLost(String),
    /// The session ends; the client is told, unless it went by itself.
    Ended(Option<Report>),
}

/// The unnamed statement, kept so that it can be bound on another server than the one that it was parsed on.
#[derive(Default)]
struct Unnamed {
    /// 0: there is none.
    id: u64,
    /// The whole message `Parse`.
    message: Vec<u8>,
    traits: Traits,
    told: Told,
    /// The pool's count of changes when it was parsed.
    plans: u64,
}

impl Unnamed {
    /// After the message's head and its empty name.
    fn text(&self) -> &[u8] {
        self.message.get(6..).and_then(|text| text.split(|byte| *byte == 0).next()).unwrap_or_default()
    }
}

/// A portal's name, its statement's name, its statement.
type Bound = (Box<[u8]>, Box<[u8]>, Rc<Statement>);

pub(crate) struct Session {
    worker: Rc<Worker>,
    client: Connection,
    entry: Rc<ClientEntry>,
    pool: Rc<Pool>,
    server: Option<Box<Server>>,
    /// What the client has begun with.
    base: SessionSettings,
    /// What it has made of that.
    wanted: SessionSettings,
    statements: HashMap<Box<[u8]>, Rc<Statement>>,
    unnamed: Unnamed,
    /// Names in `statements` whose `Parse` is not answered yet.
    parsing: VecDeque<Box<[u8]>>,
    /// Statements whose `Close` is not answered yet, with their names.
    closing: VecDeque<(Box<[u8]>, Rc<Statement>)>,
    /// A statement that the server may have otherwise than the client was told.
    held: Held,
    /// How many such statements there were.
    questions: u64,
    /// How many answers were due when a `Bind` was made one that fails; the client is told why.
    refused_at: Option<u64>,
    /// The pool's count of changes when what was bound or described last was prepared.
    bound_plans: u64,
    /// Whether the unnamed portal was made of the unnamed statement.
    binds_unnamed: bool,
    /// The portal that was bound last, if its statement may be other on this server than clients were told.
    bound: Option<Bound>,
    /// Parameters with a dot in their name that it has set, or may have.
    placeholders: Vec<Box<str>>,
    /// What ties it to its server.
    pin: Option<Pin>,
    /// The statements that tie it to another server in the same way, if that can be.
    restore: Vec<Box<str>>,
    /// They are due: the server that had them is gone.
    is_restoring: bool,
    /// What it listens to, if the pool listens for it.
    listening: Option<Rc<Subscription>>,
    /// Which connection that listens was there when it was tried last to hand over to it.
    tried: u64,
    /// What it has left since its last transaction (`UNLISTEN`), and whether that was done.
    unlistened: (Vec<Option<Box<str>>>, bool),
    /// Whether its server is its own, and no pool's.
    is_dedicated: bool,
    /// How much of the client's present message is to be passed on unseen.
    passing: usize,
    /// It is for a server that is gone, or was answered without one.
    drops_rest: bool,
    /// How much of the server's is.
    passing_back: usize,
    /// Its transaction went with a server, and it has not rolled it back yet.
    lost: Option<Lost>,
    /// After an error everything up to the next `Sync` is thrown away; then the client is told this status.
    skips: Option<u8>,
    /// Whether something may be left in the session that is to be asked for.
    inspects: bool,
    /// Whether something in this transaction may have changed what texts mean.
    changes_meaning: bool,
    /// Whether something was sent that may commit.
    may_commit: bool,
    /// What was sent first since the last transaction.
    unanswered: Unanswered,
    /// Whether `rest` holds messages that could be looked at now.
    has_backlog: bool,
    /// Whether the server has ended the session itself, and the client knows.
    is_told: bool,
    is_console: bool,
    /// The text of the statement that runs, if it may have to be logged.
    spoken: Option<Box<str>>,
}

impl Session {
    pub(crate) fn new(
        worker: Rc<Worker>,
        client: Connection,
        entry: Rc<ClientEntry>,
        base: SessionSettings,
        dedicated: Option<Box<Server>>,
        is_console: bool,
    ) -> Session {
        worker.enter(&entry);
        *entry.backend.borrow_mut() = dedicated.as_ref().map(|server| Rc::clone(&server.backend));
        let pool = Rc::clone(&entry.pool);
        let placeholders = base.keys().filter(|name| name.contains('.')).cloned().collect();
        Session {
            client,
            pool,
            is_dedicated: dedicated.is_some(),
            server: dedicated,
            wanted: Rc::clone(&base),
            base,
            statements: HashMap::new(),
            unnamed: Unnamed::default(),
            parsing: VecDeque::new(),
            closing: VecDeque::new(),
            held: Held::default(),
            questions: 0,
            refused_at: None,
            bound_plans: 0,
            binds_unnamed: false,
            bound: None,
            changes_meaning: false,
            placeholders,
            pin: None,
            restore: Vec::new(),
            is_restoring: false,
            listening: None,
            tried: 0,
            unlistened: (Vec::new(), false),
            passing: 0,
            drops_rest: false,
            passing_back: 0,
            lost: None,
            skips: None,
            inspects: false,
            may_commit: false,
            unanswered: Unanswered::default(),
            has_backlog: false,
            is_told: false,
            is_console,
            spoken: None,
            worker,
            entry,
        }
    }

    /// Serves the client until it goes.
    pub(crate) async fn run(mut self) {
        // What came together with the answer to the last question of the login.
        self.has_backlog = !self.client.rest.is_empty();
        let told = if self.is_console {
            Box::pin(crate::console::serve(&self.worker, &self.entry, &mut self.client)).await
        } else {
            self.serve().await
        };
        self.worker.leave(self.entry.pid);
        self.entry.backend.take();
        if self.listening.take().is_some() {
            self.pool.listening.recount();
        }
        if let Some(server) = self.server.take() {
            self.let_go(server);
        }
        // Whoever ended the session has said why.
        let told = self.entry.ended.take().or(told);
        // In the middle of a message it would be taken for a part of that.
        if let Some(report) = told.filter(|_| self.passing_back == 0) {
            let mut message = Vec::new();
            report.push(&mut message);
            self.client.queue(&message);
        }
        // A client that does not read is not waited for.
        let _ = tokio::time::timeout(FAREWELL, self.client.flush()).await;
    }

    async fn serve(&mut self) -> Option<Report> {
        loop {
            let step = poll_fn(|context| self.poll_step(context)).await;
            let outcome = match step {
                // In boxes: an idle session is as large as what it may have to do.
                Step::Held => continue,
                Step::NeedServer => Box::pin(self.obtain()).await,
                Step::Inspect => Box::pin(self.inspect()).await,
                Step::ServerLost(why) => self.server_lost(&why),
                Step::Ended(report) => return report,
            };
            if let Err(report) = outcome {
                return report;
            }
            if self.is_restoring
                && let Err(report) = Box::pin(self.restore()).await
            {
                return report;
            }
            // It was busy with itself when the others were told.
            if self.worker.is_closing.get() && self.entry.activity.get() == Activity::Idle {
                return Some(refusal::shutting_down());
            }
        }
    }

    /// Asks the server what the session has become.
    async fn inspect(&mut self) -> Result<(), Option<Report>> {
        self.inspects = false;
        self.leave_channels();
        let Some(server) = self.server.as_mut() else { return Ok(()) };
        // If the server goes before it has answered, nobody knows what the next one would have to be given.
        let before = self.pin.replace(Pin::Unknown);
        // A client's late cancel is not to hit the proxy's own question.
        self.entry.backend.take();
        server.backend.settled().await;
        let question = session_settings::inspection(&self.placeholders, &self.entry.key.user);
        let outcome = match server.ask(&question).await {
            Ok(rows) => {
                let found = session_settings::inspected(&rows);
                if let Some(subscription) = &self.listening {
                    server.overheard = subscription.without_heard(&server.overheard);
                }
                (self.pin, self.restore) = (found.pin, found.restore);
                let mut wanted = found.settings;
                // Every server of readers has that by itself.
                let (name, value) = FOR_READERS;
                if self.entry.key.access == Access::ReadOnly
                    && wanted.get(name).is_some_and(|set| **set == *value)
                {
                    wanted.remove(name);
                }
                server.current = self.worker.shared_settings(wanted.clone());
                // To RESET is to go back to what the session has begun with, which the server has not.
                for (name, value) in self.base.iter() {
                    wanted.entry(name.clone()).or_insert_with(|| value.clone());
                }
                self.wanted = self.worker.shared_settings(wanted);
                self.changes_meaning = false;
                match set(server, &self.wanted).await {
                    Ok(()) if !found.channels.is_empty() => self.hand_over_channels(&found.channels).await,
                    outcome => outcome,
                }
            }
            Err(error) => Err(error),
        };
        let Some(server) = self.server.as_mut() else { return Ok(()) };
        let overheard = std::mem::take(&mut server.overheard);
        *self.entry.backend.borrow_mut() = Some(Rc::clone(&server.backend));
        match outcome {
            Ok(()) => {
                if !overheard.is_empty() {
                    self.client.queue(&overheard);
                }
                self.unlink();
                Ok(())
            }
            Err(AskError::Lost(error)) => self.server_lost(&error.to_string()),
            // What it has is not known: it keeps its server, as if it were tied to it.
            Err(AskError::Refused(_, message)) => {
                tracing::warn!(message, "what a session has set cannot be asked for");
                self.pin = before.or(Some(Pin::Unknown));
                self.unlink();
                Ok(())
            }
        }
    }

    /// The client has gone, the server stays.
    fn let_go(&self, mut server: Box<Server>) {
        let is_new = self.pin.is_none() && !self.inspects && !self.is_dedicated;
        // The rest of a message that was begun would be taken from what the next one sends.
        let is_torn = self.passing > 0 || server.connection.is_clogged();
        if is_torn || !server.is_at_rest() || self.is_dedicated || server.backend.why_ended().is_some() {
            self.pool.drop_server(&self.worker, server);
        } else if is_new && self.pool.settings.get().pool_mode != PoolMode::Session {
            self.pool.release(&self.worker, server);
        } else {
            let (pool, worker) = (Rc::clone(&self.pool), Rc::clone(&self.worker));
            tokio::task::spawn_local(async move {
                let reset = tokio::time::timeout(FAREWELL, server.ask("DISCARD ALL")).await;
                if matches!(reset, Ok(Ok(_))) {
                    server.statements.clear();
                    server.unnamed = 0;
                    server.current = Rc::clone(&server.base);
                    pool.release(&worker, server);
                } else {
                    pool.drop_server(&worker, server);
                }
            });
        }
    }

    /// Tells the client that what it sent was not executed. What it sent is in `rest`.
    fn refuse(&mut self, report: &Report) -> Result<(), Option<Report>> {
        self.entry.set(Activity::Idle, self.worker.now());
        if report.is_fatal() {
            return Err(Some(report.clone()));
        }
        let mut message = Vec::new();
        report.push(&mut message);
        self.client.queue(&message);
        self.refuse_message(backend::IDLE);
        Ok(())
    }
}

/// For a last word, and for cleaning up behind a client.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(5);
