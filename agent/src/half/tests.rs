//! One story at a time; any story at all is the simulation's.

use super::*;

const SLOT: &str = "cpu";

fn trial(n: u32) -> TrialId {
    format!("{n:032x}/0").parse().expect("an id")
}

fn held(n: u32) -> Held {
    Held { trial: trial(n), attempt: Attempt::FIRST, slot: slot(SLOT) }
}

fn slot(name: &str) -> SlotId {
    name.parse().expect("a slot")
}

fn unwanted(n: u32) -> Vec<Unwanted> {
    vec![Unwanted { trial: trial(n), attempt: Attempt::FIRST, reason: "it was called off".into() }]
}

fn introduce(n: u64, held: Vec<Held>) -> Effect {
    Effect::Introduce((7 << 32) + n, held, Here::default())
}

/// A half with one slot and a clock.
struct Story {
    half: Half,
    now: Duration,
}

impl Story {
    fn new(late: Vec<Held>) -> Self {
        let (slots, cool_down) = (vec![slot(SLOT)], Duration::ZERO);
        let setup = Setup {
            slots,
            introductions: 7 << 32,
            content: BTreeSet::new(),
            late: late.clone(),
            cool_down,
            renew_every: Duration::from_secs(1),
            seed: 1,
        };
        let mut half = Half::new(setup);
        assert_eq!(half.start(), [introduce(1, late)]);
        Self { half, now: Duration::ZERO }
    }

    fn say(&mut self, input: Input) -> Vec<Effect> {
        self.half.handle(input, self.now)
    }

    fn introduced(&mut self) -> Vec<Effect> {
        self.say(Input::Introduced(Some((Duration::from_secs(15), vec![]))))
    }

    /// Introduced and at work on trial 1.
    fn working() -> Self {
        let mut story = Self::new(vec![]);
        assert_eq!(story.introduced(), [Effect::Prepare(slot(SLOT))]);
        assert_eq!(story.say(Input::Prepared(slot(SLOT))), [Effect::Pull(slot(SLOT))]);
        let granted = Pulled::Granted(trial(1), Attempt::FIRST);
        assert_eq!(story.say(Input::Pulled(slot(SLOT), granted)), [Effect::Run(held(1))]);
        story
    }

    /// At work, then with a record that is on its way.
    fn delivering() -> Self {
        let mut story = Self::working();
        assert_eq!(story.say(Input::Ended(held(1), Ended::Record { fit: true })), [Effect::Keep(held(1))]);
        assert_eq!(story.say(Input::Kept(held(1))), [Effect::Report(held(1))]);
        story
    }

    /// Time passes until something is to be done but to renew, or all is over.
    fn pass(&mut self) -> Vec<Effect> {
        while !self.half.is_over() {
            self.now = self.half.wake().expect("something is due");
            let mut effects = self.say(Input::Time);
            if effects.extract_if(.., |e| matches!(e, Effect::Renew(..))).count() > 0 {
                self.say(Input::Renewed(Renewal::Failed));
            }
            if !effects.is_empty() {
                return effects;
            }
        }
        Vec::new()
    }
}

#[test]
fn a_record_is_durable_before_it_is_sent_and_is_sent_until_it_is_taken() {
    let mut story = Story::delivering();
    for _ in 0..5 {
        assert_eq!(story.say(Input::Reported(held(1), Answer::Failed)), []);
        assert_eq!(story.half.held(), [held(1)], "still claimed");
        assert_eq!(story.pass(), [Effect::Report(held(1))]);
    }
    let settled = story.say(Input::Reported(held(1), Answer::Taken));
    assert_eq!(settled, [Effect::Settle(held(1)), Effect::Pull(slot(SLOT))]);
    assert_eq!(story.half.held(), []);
}

#[test]
fn what_an_earlier_daemon_left_is_claimed_and_delivered_first() {
    let elsewhere = Held { slot: slot("cuda:7"), ..held(3) };
    let mut story = Story::new(vec![held(1), held(2), elsewhere.clone()]);
    assert_eq!(story.introduced(), [Effect::Report(held(1)), Effect::Report(elsewhere.clone())]);
    let next = story.say(Input::Reported(held(1), Answer::Taken));
    assert_eq!(next, [Effect::Settle(held(1)), Effect::Report(held(2))]);
    let gone = story.say(Input::Reported(elsewhere.clone(), Answer::Taken));
    assert_eq!(gone, [Effect::Settle(elsewhere)], "a slot that is not offered asks for nothing");
    let next = story.say(Input::Reported(held(2), Answer::Refused));
    assert_eq!(next, [Effect::Settle(held(2)), Effect::Prepare(slot(SLOT))]);
}

#[test]
fn what_is_unwanted_is_stopped_once_and_a_finished_record_is_delivered_nevertheless() {
    let mut story = Story::working();
    let heard = |n| Input::Renewed(Renewal::Heard(unwanted(n)));
    assert_eq!(story.say(heard(2)), [], "another trial");
    assert_eq!(story.say(heard(1)), [Effect::Stop(held(1), "it was called off".into())]);
    assert_eq!(story.say(heard(1)), []);
    let ended = story.say(Input::Ended(held(1), Ended::Stopped("it was called off".into())));
    assert_eq!(ended, [Effect::Release(held(1), "it was called off".into())]);
    assert_eq!(story.say(Input::Released(held(1))), [Effect::Pull(slot(SLOT))]);
    let mut story = Story::delivering();
    assert_eq!(story.say(heard(1)), []);
}

#[test]
fn a_coordinator_that_forgot_the_agent_is_told_all_that_it_holds() {
    let mut story = Story::working();
    assert_eq!(story.say(Input::Renewed(Renewal::RegisterAgain)), [introduce(2, vec![held(1)])]);
    assert_eq!(story.say(Input::Introduced(None)), []);
    assert_eq!(story.pass(), [introduce(3, vec![held(1)])]);
    assert_eq!(story.introduced(), [], "the slots go on as they were");
    let again = story.say(Input::Introduced(Some((Duration::from_secs(15), unwanted(1)))));
    assert_eq!(again, [Effect::Stop(held(1), "it was called off".into())]);
}

#[test]
fn nothing_is_asked_for_while_an_introduction_is_under_way() {
    let mut story = Story::new(vec![]);
    story.introduced();
    story.say(Input::Prepared(slot(SLOT)));
    let again = story.say(Input::Renewed(Renewal::RegisterAgain));
    assert_eq!(again, [Effect::Withdraw(slot(SLOT)), introduce(2, vec![])]);
    let granted = Pulled::Granted(trial(1), Attempt::FIRST);
    assert_eq!(story.say(Input::Pulled(slot(SLOT), granted)), [], "it is too late for this answer");
    assert_eq!(story.introduced(), [Effect::Pull(slot(SLOT))]);
}

#[test]
fn a_slot_that_fails_at_everything_asks_less_and_less() {
    let mut story = Story::working();
    let mut pauses = Vec::new();
    for _ in 0..12 {
        story.say(Input::Ended(held(1), Ended::Record { fit: false }));
        story.say(Input::Kept(held(1)));
        assert_eq!(story.say(Input::Reported(held(1), Answer::Taken)), [Effect::Settle(held(1))]);
        let from = story.now;
        assert_eq!(story.pass(), [Effect::Pull(slot(SLOT))]);
        pauses.push(story.now - from);
        story.say(Input::Pulled(slot(SLOT), Pulled::Granted(trial(1), Attempt::FIRST)));
    }
    assert!(pauses[0] <= Duration::from_millis(500) && pauses[11] >= Duration::from_secs(30), "{pauses:?}");
}

#[test]
fn a_daemon_that_is_to_end_stops_its_worker_and_leaves_what_it_cannot_deliver() {
    let mut story = Story::working();
    assert_eq!(story.say(Input::Stop), [Effect::Stop(held(1), SHUTTING_DOWN.into())]);
    assert!(!story.half.is_over());
    story.say(Input::Ended(held(1), Ended::Stopped(SHUTTING_DOWN.into())));
    assert_eq!(story.say(Input::Released(held(1))), []);
    assert!(story.half.is_over());

    // The answer to a report does not come in time.
    let mut story = Story::delivering();
    assert_eq!(story.say(Input::Stop), []);
    assert_eq!(story.pass(), []);
    assert!(story.half.is_over() && story.now == FAREWELL);
    assert_eq!(story.half.held(), [held(1)], "the outbox has it, and others of this daemon may still be at work");

    let mut story = Story::new(vec![]);
    story.introduced();
    story.say(Input::Prepared(slot(SLOT)));
    assert_eq!(story.say(Input::Stop), [Effect::Withdraw(slot(SLOT))]);
    assert!(story.half.is_over());
}

#[test]
fn an_answer_that_nothing_waits_for_changes_nothing() {
    let mut story = Story::delivering();
    let granted = Pulled::Granted(trial(2), Attempt::FIRST);
    for stale in [
        Input::Pulled(slot(SLOT), granted),
        Input::Ended(held(1), Ended::Stopped("late".into())),
        Input::Kept(held(1)),
        Input::Reported(held(2), Answer::Taken),
        Input::Released(held(1)),
        Input::Prepared(slot("cuda:7")),
    ] {
        assert_eq!(story.say(stale.clone()), [], "{stale:?}");
    }
    assert_eq!(story.half.held(), [held(1)]);
}

#[test]
fn what_is_here_is_told_until_it_is_heard_and_then_only_when_it_changes() {
    let item = |n: u8| format!("weights-{}", format!("{n:02x}").repeat(32)).parse::<Item>().expect("an item");
    let mut story = Story::new(vec![]);
    story.introduced();
    let renew = |story: &mut Story| {
        story.now += Duration::from_secs(1);
        match story.say(Input::Time).as_slice() {
            [Effect::Renew(_, told)] => told.as_ref().map(|t| (t.number - (7 << 32), t.here.len())),
            other => panic!("{other:?}"),
        }
    };
    let heard = || Input::Renewed(Renewal::Heard(vec![]));
    assert_eq!(renew(&mut story), None, "as in the introduction");
    story.say(heard());
    story.say(Input::Content([item(1)].into()));
    assert_eq!(renew(&mut story), Some((2, 1)));
    // It may have arrived, and may still arrive: what is told again counts for more.
    story.say(Input::Renewed(Renewal::Failed));
    assert_eq!(renew(&mut story), Some((3, 1)));
    // What comes meanwhile is not part of what is heard.
    story.say(Input::Content([item(1), item(2)].into()));
    story.say(heard());
    assert_eq!(renew(&mut story), Some((4, 2)));
    story.say(heard());
    assert_eq!(renew(&mut story), None);
    let again = story.say(Input::Renewed(Renewal::RegisterAgain));
    assert!(matches!(again.last(), Some(Effect::Introduce(n, _, here)) if *n == (7 << 32) + 5 && here.len() == 2));
    story.introduced();
    assert_eq!(renew(&mut story), None);
}
