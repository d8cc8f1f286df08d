//! States from the moment they are told of to the moment nobody wants them.

use fleet_artifacts::{Pace, sha256_of};
use fleet_common::id::{Attempt, CampaignName};
use fleet_common::lease::LeaseTerms;
use fleet_common::plan::SettingsText;

use super::*;
use crate::core::{CellEntry, Core, Event, Submission};
use crate::metrics::Counts;
use crate::report::tests::records;
use crate::store::Store as Journal;

#[tokio::test]
async fn a_state_is_kept_while_its_trial_goes_on_and_removed_when_it_has_ended_however_seldom_one_looks() {
    let dir = tempfile::tempdir().expect("a folder");
    let record = records().remove(0);
    let (mut journal, _, _) = Journal::open(dir.path()).expect("opens");
    let (trial, attempt) = (record.trial.clone(), Attempt::FIRST);
    let holder = Holder { agent: record.machine.agent.clone(), slot: record.machine.slot.clone() };
    let campaign: CampaignName = "nightly".parse().expect("a name");
    let submitted = Event::CampaignSubmitted(Box::new(Submission {
        name: campaign.clone(),
        toml: String::new(),
        cells: vec![CellEntry {
            id: trial.cell.clone(),
            settings: SettingsText::of(&fleet_common::canonical::json(&record.settings)),
            dataset: "textures".into(),
        }],
        trials: vec![trial.clone()],
        excluded_json: Vec::new(),
        warnings: Vec::new(),
        keep: Default::default(),
        scheduling: Default::default(),
    }));
    let granted = Event::LeaseGranted { trial: trial.clone(), attempt, holder };
    journal.commit(vec![(1, submitted), (1, granted)]).expect("commits");
    drop(journal);
    let (journal, state, _) = Journal::open(dir.path()).expect("opens");
    let (index, samples, counts) = (journal.index.clone(), journal.samples.clone(), Arc::new(Counts::default()));
    let (driver, thread) = crate::driver::start(journal, Core::new(state, LeaseTerms::default()), counts.clone());
    let service = Service::new(driver.clone(), index, samples, counts);
    let artifacts = Artifacts::open(service, dir.path(), None).expect("opens");
    assert_eq!(artifacts.direct(), None, "a folder is not told to agents");
    let mut names = Vec::new();
    for step in 1..=2u32 {
        let file = dir.path().join("content");
        std::fs::write(&file, step.to_le_bytes()).expect("writes");
        let hash = sha256_of(&file).expect("reads");
        let name = Name::new(&format!("states/{}", trial.file_stem()), hash).expect("a name");
        artifacts.store.put_file(&name, &file, &Pace::unlimited()).await.expect("puts");
        let request = v1::SavedRequest {
            agent: record.machine.agent.to_string(),
            slot: record.machine.slot.to_string(),
            trial: Some((&trial).into()),
            state: Some(v1::ResumableState {
                attempt: 1,
                step,
                artifact: name.to_string(),
                bytes: 4,
                hardware: record.machine.hardware.to_string(),
            }),
        };
        // States of one trial are not taken faster than this.
        let reply = loop {
            match artifacts.saved(Request::new(request.clone())).await {
                Err(status) if status.code() == tonic::Code::ResourceExhausted => tokio::task::yield_now().await,
                reply => break reply.expect("is taken").into_inner(),
            }
        };
        assert!(reply.accepted, "{}", reply.reason);
        names.push(name);
    }
    artifacts.sweep(true).await.expect("sweeps");
    artifacts.sweep(false).await.expect("sweeps");
    assert!(artifacts.store.exists(&names[1]).await.expect("answers"), "it is wanted");
    gone(&artifacts, &names[0]).await;
    driver.ask(|token| Input::Cancel(token, campaign)).await.expect("answers");
    artifacts.sweep(false).await.expect("sweeps");
    gone(&artifacts, &names[1]).await;
    driver.stop().await;
    tokio::task::spawn_blocking(move || thread.join()).await.expect("waits").expect("ends");
}

/// Waits until something is removed.
async fn gone(artifacts: &Artifacts, name: &Name) {
    while artifacts.store.exists(name).await.expect("answers") {
        tokio::task::yield_now().await;
    }
}
