//! A fleet at work, looked at as operators do: both programs' metrics, and both logs.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use fleet_observe::exposition::{self, Exposition};
use fleet_tests::{Agent, Coordinator, Fleet, wait_until};
use serde_json::Value;

/// The lines of a log that are whole.
fn lines(log: &str) -> Vec<Value> {
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

/// Where a program says that it shows its metrics.
fn address(log: impl Fn() -> String) -> String {
    let said = || {
        let line = lines(&log()).into_iter().find(|l| l["message"] == "metrics can be read");
        line.and_then(|l| l["address"].as_str().map(str::to_owned))
    };
    wait_until("metrics", || said().is_some());
    said().expect("just seen")
}

fn scrape(address: &str) -> Exposition {
    let mut stream = TcpStream::connect(address).expect("connects");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("asks");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answers");
    let (_, page) = answer.split_once("\r\n\r\n").expect("a head");
    exposition::read(page).unwrap_or_else(|e| panic!("{e}\n{page}"))
}

fn names(span: &Value) -> BTreeSet<&str> {
    span.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn trials_are_seen_while_they_run_and_both_logs_tell_of_them_under_the_same_names() {
    let fleet = Fleet::new();
    let watched = ["--metrics", "127.0.0.1:0", "--log-format", "json"];
    let coordinator = Coordinator::start(&fleet, "127.0.0.1:0", &watched);
    let told = || std::fs::read_to_string(fleet.path().join("coordinator.log")).unwrap_or_default();
    let standing = address(told);
    let agent = Agent::start(&fleet, &coordinator.url, "one", &watched);
    let readings = address(|| agent.log());
    assert_eq!(scrape(&readings).with("fleet_allocator_live_bytes", &[]).count(), 0, "nothing runs yet");

    fleet.campaign("c", 1, "", "");
    fleet.fleet(&["submit", "c.toml", "--coordinator", &coordinator.url]).ended_with(0);
    let seen = || {
        let page = scrape(&readings);
        let live = page.value("fleet_allocator_live_bytes", &[("slot", "cpu")]);
        let of = [("slot", "cpu"), ("backbone", "vit_micro"), ("dataset", "textures")];
        live.is_some_and(|live| live > 0.0)
            && page.value("fleet_worker_resident_bytes", &[("slot", "cpu")]) > live
            && page.with("fleet_trial_phase", &of).count() == 1
            && page.value("fleet_trial_budget_bytes", &of) == Some((1_u64 << 30) as f64)
    };
    wait_until("a trial's readings", seen);
    fleet.fleet(&["watch", "c", "--coordinator", &coordinator.url]).ended_with(0);

    let page = scrape(&standing);
    let trials = 6.0;
    let completed = [("outcome", "completed")];
    assert_eq!(page.value("fleet_campaign_outcomes", &completed), Some(trials));
    assert_eq!(page.value("fleet_reports_total", &[completed[0], ("verdict", "recorded")]), Some(trials));
    assert_eq!(page.value("fleet_leases_granted_total", &[]), Some(trials));
    assert_eq!(page.value("fleet_samples_missing_total", &[]), Some(0.0));
    let sealed = page.value("fleet_samples_sealed_total", &[]);
    assert!(sealed > Some(0.0) && sealed == page.value("fleet_samples_stored_total", &[]), "{sealed:?}");
    let gone = || {
        let page = scrape(&readings);
        page.value("fleet_agent_trials_total", &completed) == Some(trials)
            && page.value("fleet_outbox_records", &[]) == Some(0.0)
            && page.with("fleet_trial_phase", &[]).count() == 0
            && page.with("fleet_allocator_live_bytes", &[]).count() == 0
    };
    wait_until("readings to go with their trial", gone);

    let (ours, theirs) = (lines(&agent.log()), lines(&told()));
    let of = |log: &[Value], message: &str| -> Vec<Value> {
        log.iter().filter(|l| l["message"] == message).map(|l| l["span"].clone()).collect()
    };
    let starts = of(&ours, "starting");
    assert_eq!(starts.len() as f64, trials);
    assert_eq!(names(&starts[0]), ["agent", "attempt", "cell", "name", "repeat", "slot"].into());
    for (log, message) in [(&ours, "delivered"), (&theirs, "a lease is granted"), (&theirs, "a record arrived")] {
        assert_eq!(of(log, message), starts, "{message}");
    }
    for line in ours.iter().chain(&theirs).filter(|l| l.get("trial").is_some()) {
        assert!(line.get("span").is_some(), "a line about a trial that is not under it: {line}");
    }
}
