//! The owner of the core: feeds it one input at a time, makes what follows durable, then sends the answers.
//!
//! A thread of its own, because it waits for the disk. While one sync is under way, the next inputs queue up and share
//! the sync after it: group commit without a timer.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fleet_common::lease::{LeaseTerms, Millis};
use tokio::sync::{mpsc, oneshot};

use crate::core::{Core, Event, Input, Now, Reply, Token};
use crate::metrics::{Counts, Tally};
use crate::store::{Health, Manifest, Store, StoreError};

/// Inputs that may wait for the driver; more make their senders wait.
const INBOX: usize = 4096;
/// Inputs that share one sync at most, so that the first of them does not wait long.
const BATCH: usize = 512;
/// How often time passes for the core. Leases last a minute; half a second late is on time.
const TICK: Duration = Duration::from_millis(500);

/// Why a question got no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// It could not be made durable. Nothing of it counts, and asking again later is right.
    #[error("the coordinator could not write its journal (is the disk full?); try again later")]
    NotDurable,
    /// The coordinator is shutting down.
    #[error("the coordinator is shutting down")]
    Stopped,
}

enum Command {
    Ask(Input, Token, oneshot::Sender<Result<Reply, DriverError>>),
    Tell(Input),
    Manifest(oneshot::Sender<Manifest>),
    Stop,
}

/// Asks the core questions.
#[derive(Clone)]
pub struct Handle {
    inbox: mpsc::Sender<Command>,
    tokens: Arc<AtomicU64>,
    terms: LeaseTerms,
    health: Arc<Health>,
}

impl Handle {
    /// Asks, and waits for the answer. Whoever stops waiting is forgotten: nothing is granted to them any more.
    ///
    /// # Errors
    /// The answer could not be made durable, or the coordinator is stopping.
    pub async fn ask(&self, question: impl FnOnce(Token) -> Input) -> Result<Reply, DriverError> {
        let token = Token(self.tokens.fetch_add(1, Ordering::Relaxed));
        let (sender, receiver) = oneshot::channel();
        let command = Command::Ask(question(token), token, sender);
        self.inbox.send(command).await.map_err(|_| DriverError::Stopped)?;
        let waiting = Waiting { token, inbox: self.inbox.clone(), answered: false };
        let answer = receiver.await;
        waiting.done();
        answer.unwrap_or(Err(DriverError::Stopped))
    }

    /// Inputs that wait for the driver.
    pub fn queued(&self) -> usize {
        self.inbox.max_capacity() - self.inbox.capacity()
    }

    /// How long leases last.
    pub fn terms(&self) -> LeaseTerms {
        self.terms
    }

    /// What of the storage does not work right now.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// What is durable at this moment, for a copy of it.
    ///
    /// # Errors
    /// The coordinator is stopping.
    pub async fn manifest(&self) -> Result<Manifest, DriverError> {
        let (sender, receiver) = oneshot::channel();
        self.inbox.send(Command::Manifest(sender)).await.map_err(|_| DriverError::Stopped)?;
        receiver.await.map_err(|_| DriverError::Stopped)
    }

    /// Lets time pass for the core until the coordinator stops.
    pub async fn tick(&self) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while self.inbox.send(Command::Tell(Input::Tick)).await.is_ok() {
            interval.tick().await;
        }
    }

    /// Returns once the driver has ended, whatever ended it.
    pub async fn ended(&self) {
        self.inbox.closed().await;
    }

    /// Ends the driver once everything before this is done.
    pub async fn stop(&self) {
        let _ = self.inbox.send(Command::Stop).await;
    }
}

/// Tells the core when an asker goes away without an answer.
struct Waiting {
    token: Token,
    inbox: mpsc::Sender<Command>,
    answered: bool,
}

impl Waiting {
    fn done(mut self) {
        self.answered = true;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.answered {
            // A full inbox loses this; then the lease goes to a slot that asks again and is given the same one.
            let _ = self.inbox.try_send(Command::Tell(Input::Gone(self.token)));
        }
    }
}

/// Starts the driver. The thread ends after [`Handle::stop`], or once all handles are gone, and gives the store back to
/// nobody: joining it means that everything is durable, a snapshot left, and the folder free.
pub fn start(store: Store, core: Core, counts: Arc<Counts>) -> (Handle, std::thread::JoinHandle<()>) {
    counts.journal(store.journal_bytes());
    let (sender, receiver) = mpsc::channel(INBOX);
    let (terms, health) = (core.terms(), store.health.clone());
    let driver = Driver {
        core,
        store,
        counts,
        started: Instant::now(),
        waiting: HashMap::new(),
        stopping: false,
        failed: false,
    };
    let thread = std::thread::Builder::new()
        .name("driver".to_owned())
        .spawn(move || driver.run(receiver))
        .expect("a thread can be started");
    (Handle { inbox: sender, tokens: Arc::default(), terms, health }, thread)
}

struct Driver {
    core: Core,
    store: Store,
    counts: Arc<Counts>,
    started: Instant,
    waiting: HashMap<Token, oneshot::Sender<Result<Reply, DriverError>>>,
    stopping: bool,
    /// The core's state is not what the journal says.
    failed: bool,
}

impl Driver {
    fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        while !self.stopping
            && let Some(first) = inbox.blocking_recv()
        {
            let mut events = Vec::new();
            let mut replies = Vec::new();
            self.take(first, &mut events, &mut replies);
            for _ in 1..BATCH {
                let Ok(next) = inbox.try_recv() else { break };
                self.take(next, &mut events, &mut replies);
            }
            self.finish(events, replies);
            if let Some(made) = self.store.upkeep(self.core.state().trial_count()) {
                self.counts.snapshot(&made);
            }
        }
        if !self.failed {
            self.store.close(self.core.state());
        }
    }

    fn take(&mut self, command: Command, events: &mut Vec<(u64, Event)>, replies: &mut Vec<(Token, Reply)>) {
        let input = match command {
            Command::Ask(input, token, sender) => {
                self.waiting.insert(token, sender);
                input
            }
            Command::Tell(input) => {
                if let Input::Gone(token) = &input {
                    self.waiting.remove(token);
                }
                input
            }
            Command::Manifest(sender) => {
                // What is not committed yet is not in it: it is of what is durable.
                let _ = sender.send(self.store.manifest());
                return;
            }
            Command::Stop => {
                self.stopping = true;
                return;
            }
        };
        let now = self.now();
        let step = self.core.handle(input, now);
        events.extend(step.events.into_iter().map(|e| (now.unix_ms, e)));
        replies.extend(step.replies);
    }

    fn finish(&mut self, events: Vec<(u64, Event)>, replies: Vec<(Token, Reply)>) {
        match self.commit(events) {
            Ok(()) => {
                for (token, reply) in replies {
                    self.counts.answered(&reply);
                    if let Some(sender) = self.waiting.remove(&token) {
                        let _ = sender.send(Ok(reply));
                    }
                }
            }
            Err(error) => {
                tracing::error!(%error, "nothing of the last requests counts");
                for (token, _) in replies {
                    if let Some(sender) = self.waiting.remove(&token) {
                        let _ = sender.send(Err(DriverError::NotDurable));
                    }
                }
                // The core is ahead of the journal: take it back to what is durable.
                match self.store.replay(self.now().mono) {
                    Ok(state) => self.core.replace_state(state),
                    Err(error) => {
                        tracing::error!(%error, "the journal cannot be read either; stopping");
                        self.stopping = true;
                        self.failed = true;
                    }
                }
            }
        }
    }

    fn commit(&mut self, events: Vec<(u64, Event)>) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        let tally = Tally::of(events.iter().map(|(_, event)| event));
        let from = Instant::now();
        let outcome = self.store.commit(events);
        match &outcome {
            Ok(()) => self.counts.committed(&tally, from.elapsed()),
            Err(_) => self.counts.refused_commit(),
        }
        self.counts.journal(self.store.journal_bytes());
        outcome
    }

    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono: Millis(self.started.elapsed().as_millis() as u64), unix_ms: unix.as_millis() as u64 }
    }
}
