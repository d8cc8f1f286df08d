//! Leaving when there is nothing to do: what an agent that somebody pays for by the hour should do by itself.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Shared;

/// How often the daemon looks whether it has something to do.
const LOOK: Duration = Duration::from_millis(500);

/// A daemon's end has two reasons: somebody asks for it, or there is nothing to do. The receiver turns true with either;
/// the sender is for the second.
pub(super) fn or_idle(mut asked: watch::Receiver<bool>) -> (watch::Sender<bool>, watch::Receiver<bool>) {
    let (leave, stopping) = watch::channel(*asked.borrow());
    let forward = leave.clone();
    tokio::spawn(async move {
        if asked.wait_for(|stopping| *stopping).await.is_ok() {
            forward.send_replace(true);
        }
    });
    (leave, stopping)
}

/// Ends the daemon through `leave` once it has had nothing to do for `limit` without interruption.
pub(super) async fn leave_when_idle(shared: Arc<Shared>, limit: Duration, leave: watch::Sender<bool>) {
    let mut idle = Idle::since(Instant::now());
    loop {
        tokio::time::sleep(LOOK.min(limit)).await;
        if idle.is_over(is_busy(&shared), Instant::now(), limit) {
            tracing::info!("no work for {}: leaving", humantime::format_duration(limit));
            leave.send_replace(true);
            return;
        }
    }
}

/// Whether something is under way here, or waits to be delivered: an agent that leaves may take its folder with it.
fn is_busy(shared: &Shared) -> bool {
    let state = &shared.options.state;
    let holds = |folder: &str| holds_something(&state.join(folder));
    shared.preparing.get() > 0 || !shared.running().is_empty() || ["outbox", "spool", "wasted"].iter().any(|f| holds(f))
}

fn holds_something(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

/// How long there has been nothing to do.
#[derive(Debug)]
struct Idle {
    since: Instant,
}

impl Idle {
    fn since(since: Instant) -> Self {
        Self { since }
    }

    /// Whether to leave, given what is so at `now`.
    fn is_over(&mut self, busy: bool, now: Instant, limit: Duration) -> bool {
        if busy {
            self.since = now;
        }
        now.duration_since(self.since) >= limit
    }
}

/// Slots that do something before their first question for work, which is work, too.
#[derive(Debug, Default)]
pub(super) struct Preparing(AtomicUsize);

impl Preparing {
    /// One more, until what is returned is dropped.
    pub(super) fn one(&self) -> One<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        One(&self.0)
    }

    fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// A slot that is at it.
pub(super) struct One<'a>(&'a AtomicUsize);

impl Drop for One<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(600);

    #[test]
    fn only_time_without_work_in_one_piece_counts() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut idle = Idle::since(start);
        assert!(!idle.is_over(false, at(599), LIMIT));
        assert!(!idle.is_over(true, at(600), LIMIT), "work that came at the last moment");
        assert!(!idle.is_over(false, at(1199), LIMIT), "counts from the end of that work on");
        assert!(idle.is_over(false, at(1200), LIMIT));
    }

    #[test]
    fn what_is_prepared_is_counted_until_its_guard_goes() {
        let preparing = Preparing::default();
        let (one, two) = (preparing.one(), preparing.one());
        assert_eq!(preparing.get(), 2);
        drop(one);
        assert_eq!(preparing.get(), 1);
        drop(two);
        assert_eq!(preparing.get(), 0);
    }

    #[test]
    fn a_folder_holds_something_or_not() {
        let dir = tempfile::tempdir().expect("a folder");
        assert!(!holds_something(&dir.path().join("absent")) && !holds_something(dir.path()));
        std::fs::write(dir.path().join("record.json"), "").expect("written");
        assert!(holds_something(dir.path()));
    }

    #[tokio::test]
    async fn both_reasons_end_the_daemon() {
        let (ask, asked) = watch::channel(false);
        let (leave, mut stopping) = or_idle(asked);
        assert!(!*stopping.borrow());
        ask.send_replace(true);
        assert!(stopping.wait_for(|s| *s).await.is_ok());
        let (_ask, asked) = watch::channel(false);
        let (leave_now, mut stopping) = or_idle(asked);
        leave_now.send_replace(true);
        assert!(stopping.wait_for(|s| *s).await.is_ok());
        drop(leave);
    }
}
