//! explain: why a trial is not running, what is expected of it, what became of its attempts.

use clap::Args;
use fleet_common::units::{Bytes, duration};
use fleet_common::wire::v1;
use serde::Serialize;

use super::{Coordinator, Failure, Json, client, print_json};
use crate::core::Explanation;

/// `fleet explain`.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The beginning of a cell's id, or a trial's id CELL/REPEAT or CELL/REPEAT/HARDWARE
    #[arg(value_name = "CELL|TRIAL")]
    what: String,
    #[command(flatten)]
    coordinator: Coordinator,
    #[command(flatten)]
    json: Json,
}

/// The `--json` form.
#[derive(Serialize)]
struct ExplainDocument {
    schema: &'static str,
    trials: Vec<Explanation>,
}

impl Explain {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let mut client = client::connect(&self.coordinator.coordinator).await?;
        let reply = client.explain(v1::ExplainRequest { what: self.what }).await?.into_inner();
        let read = |json: &Vec<u8>| {
            serde_json::from_slice(json).map_err(|e| {
                Failure::failed(format!("the coordinator's answer cannot be read ({e}); are both of the same version?"))
            })
        };
        let trials = reply.trial_json.iter().map(read).collect::<Result<Vec<Explanation>, _>>()?;
        if self.json.json {
            print_json(&ExplainDocument { schema: "fleet.explain/1", trials });
        } else {
            trials.iter().for_each(|trial| lines(trial).iter().for_each(|line| say!("{line}")));
        }
        Ok(())
    }
}

/// Slots that are named one by one; the reasons of more are summed up.
const MOST_SLOTS: usize = 12;

/// An explanation, line by line.
fn lines(t: &Explanation) -> Vec<String> {
    let mut lines = vec![format!("{}  {}", t.trial, t.label)];
    let mut say = |head: &str, text: String| lines.push(format!("  {head:<10}{text}"));
    say("state", state(t));
    say("asked by", if t.campaigns.is_empty() { "nobody any more".to_owned() } else { t.campaigns.join(", ") });
    if let Some(line) = &t.line {
        let priority = if line.priority == 0 { String::new() } else { format!(", priority {}", line.priority) };
        say(
            "in line",
            format!("with {}{priority}: {} of {} waiting trials are ahead", line.campaign, line.ahead, line.waiting),
        );
    }
    if let Some(why) = &t.waits_for {
        say("waits", format!("because {why}"));
    }
    let budget =
        t.expected.budget_bytes.map_or_else(|| "no budget".to_owned(), |b| format!("a budget of {}", Bytes(b)));
    say(
        "memory",
        match t.expected.peak_bytes {
            Some(peak) => format!("about {} for tensors ({}), under {budget}", Bytes(peak), t.expected.peak_basis),
            None => format!("nothing is known of what it needs, under {budget}"),
        },
    );
    for d in &t.expected.durations {
        say(
            "time",
            match (d.seconds, d.seconds_90) {
                (Some(s), Some(most)) => {
                    format!("about {} on {} (90 %: {}), from {}", duration(s), d.hardware, duration(most), d.basis)
                }
                _ => format!("unknown on {}: {}", d.hardware, d.basis),
            },
        );
    }
    for a in &t.attempts {
        say("attempt", format!("{} on {} of {} ended ({}): {}", a.attempt, a.slot, a.agent, a.ended, a.reason));
    }
    if t.slots.len() <= MOST_SLOTS {
        t.slots.iter().for_each(|s| say("slot", format!("{}/{} ({}): {}", s.agent, s.slot, s.hardware, s.reason)));
    } else {
        let mut by_reason = std::collections::BTreeMap::<&str, usize>::new();
        t.slots.iter().for_each(|s| *by_reason.entry(&s.reason).or_default() += 1);
        by_reason.into_iter().for_each(|(why, n)| say("slots", format!("{n}: {why}")));
    }
    lines
}

fn state(t: &Explanation) -> String {
    let attempt = t.attempt.map_or_else(String::new, |a| format!(", attempt {a}"));
    match (&t.runs_on, &t.outcome) {
        (Some(place), _) => format!("{}{attempt} in {place}", t.state),
        (None, Some(outcome)) => format!("{}: {outcome}{attempt}", t.state),
        (None, None) => t.state.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Expected, ExpectedDuration, Line, PastAttempt, SlotReason};

    #[test]
    fn everything_that_keeps_a_trial_waiting_is_said() {
        let t = Explanation {
            trial: "0123/0".into(),
            label: "lora · vit_micro".into(),
            state: "waiting".into(),
            outcome: None,
            campaigns: vec!["nightly".into()],
            line: Some(Line { campaign: "nightly".into(), priority: 1, waiting: 40, ahead: 7 }),
            waits_for: Some("the one slot that it fits is busy".into()),
            expected: Expected {
                peak_bytes: Some(9 << 30),
                peak_basis: "predicted from its settings".into(),
                budget_bytes: None,
                durations: vec![ExpectedDuration {
                    hardware: "A".into(),
                    seconds: Some(120.0),
                    seconds_90: Some(150.0),
                    basis: "3 finished trials".into(),
                }],
            },
            slots: vec![SlotReason {
                agent: "a".into(),
                slot: "cpu".into(),
                hardware: "A".into(),
                fits: true,
                reason: "it fits; the slot is busy".into(),
            }],
            attempt: Some(1),
            runs_on: None,
            attempts: vec![PastAttempt {
                attempt: 1,
                agent: "b".into(),
                slot: "cpu".into(),
                ended: "crashed".into(),
                reason: "signal 9".into(),
                at_unix_ms: 5,
            }],
        };
        let text = lines(&t).join("\n");
        for part in [
            "waiting",
            "nightly, priority 1: 7 of 40 waiting trials are ahead",
            "because the one slot that it fits is busy",
            "about 9216 MiB for tensors (predicted from its settings), under no budget",
            "about 2 min 00 s on A (90 %: 2 min 30 s), from 3 finished trials",
            "1 on cpu of b ended (crashed): signal 9",
            "a/cpu (A): it fits; the slot is busy",
        ] {
            assert!(text.contains(part), "lacks \"{part}\":\n{text}");
        }
    }
}
