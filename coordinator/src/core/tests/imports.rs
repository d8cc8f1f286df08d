//! Imported sets beside campaigns.

use fleet_common::record_set::RecordSet;

use super::*;

fn set(content: &str, sizes: &[usize]) -> RecordSet {
    let documents = sizes.iter().zip(1..).map(|(size, line)| (line, vec![b'x'; *size])).collect();
    RecordSet { documents, content: content.to_owned() }
}

fn named(name: &str) -> CampaignName {
    name.parse().expect("a name")
}

fn import(w: &mut World, name: &str, set: RecordSet) -> Result<(u64, bool), String> {
    let input = |token| Input::Import { token, name: named(name), file_name: "f.jsonl".into(), set };
    match w.ask(input) {
        Some(Reply::Imported(outcome)) => outcome.map_err(|e| e.to_string()),
        other => panic!("{other:?}"),
    }
}

fn replayed(events: &[Event]) -> (State, usize) {
    let mut state = State::default();
    let misfits = events.iter().filter(|e| state.apply(e, Millis(0), 1_000).is_err()).count();
    (state, misfits)
}

#[test]
fn the_same_again_changes_nothing_and_other_content_is_refused() {
    let mut w = World::new();
    assert_eq!(import(&mut w, "s", set("aa", &[1, 2])), Ok((2, true)));
    let events = w.events.clone();
    assert_eq!(import(&mut w, "s", set("aa", &[1, 2])), Ok((2, false)));
    let refused = import(&mut w, "s", set("bb", &[1])).expect_err("refused");
    assert!(refused.contains("other content (2 records from f.jsonl)") && refused.contains("--as"), "{refused}");
    assert_eq!(w.events, events, "nothing else happened");
    // The same content under another name needs no second copy.
    assert_eq!(import(&mut w, "again", set("aa", &[1, 2])), Ok((2, true)));
    assert_eq!(w.events.len(), events.len() + 1);
}

#[test]
fn campaigns_and_sets_do_not_take_each_others_names() {
    let mut w = World::new();
    w.submit("[0]");
    let events = w.events.len();
    assert!(import(&mut w, "t", set("aa", &[1])).expect_err("refused").contains("\"t\" is a campaign"));
    assert_eq!(w.events.len(), events);
    let mut w = World::new();
    import(&mut w, "t", set("aa", &[1])).expect("imported");
    let events = w.events.len();
    let Reply::Submitted(Err(refusal)) = w.submit("[0]") else { panic!("submitted") };
    assert!(refusal.to_string().contains("another name"), "{refusal}");
    assert_eq!(w.events.len(), events);
}

#[test]
fn a_set_is_read_only_and_campaign_commands_say_so() {
    let mut w = World::new();
    import(&mut w, "s", set("aa", &[1])).expect("imported");
    let events = w.events.len();
    let refusal = Refusal::Imported { name: named("s") };
    let retry = |token| Input::Retry { token, campaign: named("s"), failed: true, missing: true };
    assert_eq!(w.ask(retry), Some(Reply::Changed(Err(refusal.clone()))));
    assert_eq!(w.ask(|t| Input::Cancel(t, named("s"))), Some(Reply::Changed(Err(refusal.clone()))));
    assert_eq!(w.ask(|t| Input::Describe(t, named("s"))), Some(Reply::Described(Err(refusal))));
    assert_eq!(w.events.len(), events);
    let Some(Reply::Status(Ok(snapshot))) = w.ask(|t| Input::Status(t, Some(named("s")))) else { panic!("no status") };
    assert_eq!((snapshot.campaigns.len(), snapshot.imported.len(), snapshot.imported[0].1.records), (0, 1, 1));
    let Some(Reply::Located(Ok(Source::Imported(found)))) = w.ask(|t| Input::Locate(t, named("s"))) else {
        panic!("lost")
    };
    assert_eq!(found.content, "aa");
    let Some(Reply::Located(Err(unknown))) = w.ask(|t| Input::Locate(t, named("ss"))) else { panic!("found") };
    assert!(unknown.to_string().contains("did you mean \"s\"?"), "{unknown}");
}

#[test]
fn a_large_set_is_divided_and_counts_only_when_all_of_it_is_there() {
    let mut w = World::new();
    // The largest records there are.
    import(&mut w, "s", set("aa", &[8 << 20, 8 << 20, 1, 3 << 20, 2 << 20, 1])).expect("imported");
    let sizes: Vec<(u64, usize)> = w
        .events
        .iter()
        .filter_map(|e| match e {
            Event::ImportedPart { first, records, .. } => Some((*first, records.len())),
            _ => None,
        })
        .collect();
    assert_eq!(sizes, [(0, 1), (1, 1), (2, 3), (5, 1)]);
    let (whole, misfits) = replayed(&w.events);
    assert_eq!((whole.imports(), misfits), (w.core.state().imports(), 0));
    for missing in 0..w.events.len() {
        let mut events = w.events.clone();
        events.remove(missing);
        let (state, _) = replayed(&events);
        assert!(state.imports().sets().is_empty(), "without event {missing} there is no set");
        // What is left of it is in nobody's way.
        let mut again = World { core: Core::new(state, TERMS), ..World::new() };
        import(&mut again, "s", set("aa", &[8 << 20, 8 << 20, 1, 3 << 20, 2 << 20, 1])).expect("imported");
        let (state, misfits) = replayed(&[events, again.events].concat());
        assert_eq!((state.imports().sets().len(), misfits), (1, usize::from(missing + 1 < w.events.len())));
    }
}
