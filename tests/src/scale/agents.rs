//! Simulated agents. Each has its own connection, made by the code that real ones connect with, introduces itself, asks
//! for leases, tells every second how far it is, and delivers records. Only what would happen in its slot does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fleet_agent::daemon::{Client, connect, join};
use fleet_common::wire::v1;
use fleet_secure::token::Token;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::campaign::record;
use super::phase::Told;
use super::stage::{Stage, refused};

/// As real agents: so that those who watch see progress.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Introductions of an agent before it gives up, and the pause between them.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);
/// How long a question for work may wait.
const WAIT_MS: u64 = 20_000;
const SLOT: &str = "cuda:0";
const HARDWARE: &str = "Simulated GPU (8 GiB)";

/// When trials end.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// At once: as much as everything together can do.
    Flat,
    /// So many per second of all agents together.
    PerSecond(f64),
}

/// One of them.
struct Agent {
    name: String,
    client: Client,
    /// What it is at work on.
    held: Mutex<Option<v1::Lease>>,
}

/// Many of them, until this is dropped.
pub struct Agents {
    agents: Vec<Arc<Agent>>,
    heartbeats: JoinSet<()>,
    missed: Arc<AtomicU64>,
    /// From the first connection to the last answered introduction.
    pub introduced: Duration,
    /// How long it took to give all of them certificates.
    pub joined: Option<Duration>,
}

impl Agents {
    /// Connects and introduces so many.
    ///
    /// # Errors
    /// One of them is refused.
    pub async fn connect(stage: &Stage, count: usize) -> Result<Self, String> {
        let mut names: Vec<String> = (0..count).map(|n| format!("simulated-{n}")).collect();
        let mut joined = None;
        if stage.encrypted {
            let from = Instant::now();
            let token: Token = stage.token(count)?.parse().map_err(|e| format!("{e}"))?;
            let token = Arc::new(token);
            for (number, name) in names.iter_mut().enumerate() {
                let who = join(&token, None, &stage.agent(number), name).await.map_err(|e| format!("{e:#}"))?;
                *name = who.name.to_string();
            }
            joined = Some(from.elapsed());
        }
        let from = Instant::now();
        let mut introductions = JoinSet::new();
        for (number, name) in names.into_iter().enumerate() {
            let client = connect(&stage.serving.url, &stage.agent(number)).map_err(|e| format!("{e:#}"))?;
            introductions.spawn(async move {
                let agent = Arc::new(Agent { name, client, held: Mutex::default() });
                agent.introduce().await.map(|()| agent)
            });
        }
        let mut agents = Vec::new();
        while let Some(introduced) = introductions.join_next().await {
            agents.push(introduced.map_err(|e| e.to_string())??);
        }
        let introduced = from.elapsed();
        let (mut heartbeats, missed) = (JoinSet::new(), Arc::new(AtomicU64::new(0)));
        for agent in &agents {
            heartbeats.spawn(beat(agent.clone(), missed.clone()));
        }
        Ok(Self { agents, heartbeats, missed, introduced, joined })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.agents.len()
    }

    /// Heartbeats that got no answer.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    /// Has all of them work for a while; returns what each was told.
    ///
    /// # Errors
    /// A request was refused, or there was not enough work.
    pub(super) async fn work(&self, pace: Pace, warm_up: Duration, time: Duration) -> Result<Vec<Told>, String> {
        let (over, _) = watch::channel(false);
        let counts = Arc::new(AtomicBool::new(false));
        let start = Instant::now();
        let mut working = JoinSet::new();
        for (number, agent) in self.agents.iter().enumerate() {
            let share = number as f64 / self.agents.len() as f64;
            let period = match pace {
                Pace::Flat => None,
                Pace::PerSecond(rate) => Some(Duration::from_secs_f64(self.agents.len() as f64 / rate)),
            };
            // Trials end at any moment.
            let first = start + period.unwrap_or_default().mul_f64(share);
            working.spawn(agent.clone().work(first, period, over.subscribe(), counts.clone()));
        }
        tokio::time::sleep(warm_up).await;
        counts.store(true, Ordering::Relaxed);
        tokio::time::sleep(time).await;
        counts.store(false, Ordering::Relaxed);
        let _ = over.send(true);
        working.join_all().await.into_iter().collect()
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        self.heartbeats.abort_all();
    }
}

impl Agent {
    async fn introduce(&self) -> Result<(), String> {
        let slot = v1::Slot {
            slot: SLOT.to_owned(),
            hardware: HARDWARE.to_owned(),
            memory_bytes: 8 << 30,
            ..v1::Slot::default()
        };
        let request = || v1::RegisterRequest {
            agent: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: self.name.clone(),
            slots: vec![slot.clone()],
            held: vec![],
            number: 1,
            content: vec![],
        };
        // As real agents: what fails is tried again.
        let mut tries = 1..TRIES;
        loop {
            match self.client.clone().register(request()).await {
                Ok(_) => return Ok(()),
                Err(status) if tries.next().is_none() => return Err(refused(&status)),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Asks for trials and ends each at once, or at its time.
    async fn work(
        self: Arc<Self>,
        first: Instant,
        period: Option<Duration>,
        over: watch::Receiver<bool>,
        counts: Arc<AtomicBool>,
    ) -> Result<Told, String> {
        let mut told = Told::default();
        let mut client = self.client.clone();
        let mut due = first;
        while !*over.borrow() {
            if let Some(period) = period {
                tokio::time::sleep_until(due).await;
                // Who is late does not make up for it: machines do not train faster for having waited.
                due = (due + period).max(Instant::now());
            }
            let counted = counts.load(Ordering::Relaxed);
            let asked = Instant::now();
            let request = v1::PullRequest { agent: self.name.clone(), slot: SLOT.to_owned(), wait_ms: WAIT_MS };
            let lease = client.pull(request).await.map_err(|s| refused(&s))?.into_inner().lease;
            let lease = lease.ok_or("there was not enough work")?;
            let leased = asked.elapsed();
            *self.held.lock().await = Some(lease.clone());
            let request = v1::ReportRequest {
                agent: self.name.clone(),
                slot: SLOT.to_owned(),
                trial: lease.trial.clone(),
                attempt: lease.attempt,
                record_json: record(&lease, &self.name, SLOT, HARDWARE)?,
            };
            let delivering = Instant::now();
            let reply = client.report(request).await.map_err(|s| refused(&s))?.into_inner();
            self.held.lock().await.take();
            if reply.outcome() != v1::report_reply::Outcome::Recorded {
                return Err(format!("expected a recorded trial, found {:?}", reply.outcome()));
            }
            if counted && counts.load(Ordering::Relaxed) {
                told.leased.push(leased.as_secs_f64());
                told.recorded.push(delivering.elapsed().as_secs_f64());
            }
        }
        Ok(told)
    }
}

/// Tells how far an agent is, as long as it lives.
async fn beat(agent: Arc<Agent>, missed: Arc<AtomicU64>) {
    let mut client = agent.client.clone();
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let held = agent.held.lock().await.clone();
        let progress = held.map(|lease| v1::Progress {
            trial: lease.trial,
            attempt: lease.attempt,
            slot: SLOT.to_owned(),
            phase: "train".to_owned(),
            done: 500,
            of: 1000,
            loss: Some(1.0),
        });
        let progress = progress.into_iter().collect();
        let answer =
            client.heartbeat(v1::HeartbeatRequest { agent: agent.name.clone(), progress, content: None }).await;
        if answer.is_err() {
            missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}
