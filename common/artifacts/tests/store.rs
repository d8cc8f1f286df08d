//! One store's behaviour, on a folder and on a server that speaks S3, well and badly.

mod support;

use std::path::PathBuf;
use std::time::Duration;

use fleet_artifacts::{Name, Pace, Store, StoreError, sha256_of};
use proptest::prelude::*;
use support::{KEY, S3, SECRET};

/// A file of `bytes` bytes that no compression or coincidence makes alike.
fn file(dir: &tempfile::TempDir, seed: u64, bytes: usize) -> (PathBuf, Vec<u8>) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let content: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(bytes)
    .collect();
    let path = dir.path().join(format!("file-{seed}-{bytes}"));
    std::fs::write(&path, &content).expect("writes");
    (path, content)
}

fn name(folder: &str, file: &std::path::Path) -> Name {
    Name::new(folder, sha256_of(file).expect("readable")).expect("a name")
}

fn environment() -> Vec<(String, String)> {
    [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)].map(|(k, v)| (k.into(), v.into())).into()
}

fn on(s3: &S3) -> Store {
    Store::open_in(&s3.url(), environment()).expect("an address")
}

const MIB: usize = 1 << 20;

/// What every store does.
async fn behaves(store: &Store) {
    let dir = tempfile::tempdir().expect("a folder");
    let got = dir.path().join("got");
    for (seed, bytes) in [(1, 0), (2, 1), (3, 5 * MIB - 1), (4, 5 * MIB), (5, 12 * MIB + 7)] {
        let (path, content) = file(&dir, seed, bytes);
        let name = name("a/b", &path);
        assert_eq!(store.size(&name).await.expect("answers"), None);
        assert!(matches!(store.get_to_file(&name, &got).await, Err(StoreError::Absent { .. })));
        for _ in 0..2 {
            assert_eq!(store.put_file(&name, &path, &Pace::unlimited()).await.expect("puts"), bytes as u64);
        }
        assert!(store.exists(&name).await.expect("answers"));
        assert_eq!(store.get_to_file(&name, &got).await.expect("gets"), bytes as u64);
        assert_eq!(std::fs::read(&got).expect("there"), content);
        std::fs::remove_file(&got).expect("there");
    }
    let listed = store.list("a").await.expect("lists");
    assert_eq!(listed.iter().map(|e| e.bytes).sum::<u64>(), (22 * MIB + 7) as u64);
    assert_eq!(store.list("other").await.expect("lists"), []);
    let mut left = listed.len();
    assert_eq!(left, 5);
    for entry in listed {
        store.remove(&entry.name).await.expect("removes");
        store.remove(&entry.name).await.expect("nothing to remove is no failure");
        left -= 1;
        assert_eq!(store.list("a").await.expect("lists").len(), left);
    }
}

/// Puts the wrong file under a name: nothing may be there afterwards.
async fn refuses_other_content(store: &Store) {
    let dir = tempfile::tempdir().expect("a folder");
    for bytes in [10, 6 * MIB] {
        let (right, _) = file(&dir, 1, bytes);
        let (wrong, _) = file(&dir, 2, bytes);
        let name = name("states/x", &right);
        let outcome = store.put_file(&name, &wrong, &Pace::unlimited()).await;
        assert!(matches!(outcome, Err(StoreError::Damaged { .. })), "{outcome:?}");
        assert_eq!(store.size(&name).await.expect("answers"), None);
    }
}

#[tokio::test]
async fn a_folder_keeps_what_it_is_given() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = Store::open(dir.path().join("store").to_str().expect("text")).expect("a folder");
    behaves(&store).await;
    refuses_other_content(&store).await;
    // A folder may stay; no part of a file does.
    let states = std::fs::read_dir(dir.path().join("store/states/x")).into_iter().flatten();
    assert_eq!(states.count(), 0);
}

#[tokio::test]
async fn an_s3_store_keeps_what_it_is_given_below_its_prefix() {
    let s3 = S3::start().await;
    let store = on(&s3);
    behaves(&store).await;
    refuses_other_content(&store).await;
    assert!(s3.inner().uploads.is_empty(), "what is not completed is given back");
    let dir = tempfile::tempdir().expect("a folder");
    let (path, content) = file(&dir, 1, 100);
    store.put_file(&name("x", &path), &path, &Pace::unlimited()).await.expect("puts");
    let key = format!("some/prefix/{}", name("x", &path));
    assert_eq!(s3.inner().objects.get(&key), Some(&content));
}

#[tokio::test]
async fn an_upload_that_nobody_waits_for_leaves_no_parts() {
    let (s3, dir) = (S3::start().await, tempfile::tempdir().expect("a folder"));
    let (path, _) = file(&dir, 9, 12 * MIB);
    let name = name("a", &path);
    // A part per second: it cannot end.
    let (store, pace) = (on(&s3), Pace::bytes_per_second(5 * MIB as u64));
    let put = store.put_file(&name, &path, &pace);
    assert!(tokio::time::timeout(Duration::from_millis(700), put).await.is_err(), "it is at work");
    assert!(s3.inner().asked.iter().any(|a| a.starts_with("PUT partNumber") || a.contains("uploadId")), "with parts");
    let begun = std::time::Instant::now();
    while !s3.inner().uploads.is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(10), "its parts are left in the store");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_prefix_may_be_written_in_any_way() {
    let (s3, dir) = (S3::start().await, tempfile::tempdir().expect("a folder"));
    let (path, _) = file(&dir, 10, 100);
    let name = name("states/a-0", &path);
    let address = s3.url().replace("/some/prefix", "/some//prefix/");
    let store = Store::open_in(&address, environment()).expect("an address");
    store.put_file(&name, &path, &Pace::unlimited()).await.expect("puts");
    let keys: Vec<String> = s3.inner().objects.keys().cloned().collect();
    let listed: Vec<Name> = store.list("states").await.expect("lists").into_iter().map(|e| e.name).collect();
    assert_eq!(listed, [name], "{keys:?}");
}

#[tokio::test]
async fn failures_that_pass_are_outlived_and_a_broken_download_goes_on_where_it_was() {
    let s3 = S3::start().await;
    let store = on(&s3);
    let dir = tempfile::tempdir().expect("a folder");
    let (path, content) = file(&dir, 1, 7 * MIB);
    let name = name("x", &path);
    s3.inner().faults.fail = 2;
    store.put_file(&name, &path, &Pace::unlimited()).await.expect("puts");
    s3.inner().faults.fail = 2;
    s3.inner().faults.cut = Some((4, 1_500_000));
    s3.inner().faults.slow = Duration::from_millis(20);
    let got = dir.path().join("got");
    store.get_to_file(&name, &got).await.expect("gets");
    assert_eq!(std::fs::read(&got).expect("there"), content);
    assert_eq!(s3.inner().faults.cut, Some((0, 1_500_000)), "it was cut");
    // A part that an earlier process has left.
    std::fs::write(dir.path().join("again.partial"), &content[..3 * MIB]).expect("writes");
    store.get_to_file(&name, &dir.path().join("again")).await.expect("gets");
    assert_eq!(std::fs::read(dir.path().join("again")).expect("there"), content);
    // One that belongs to something else, or is longer than the whole.
    for left in [vec![7; 3 * MIB], vec![7; 8 * MIB]] {
        std::fs::write(dir.path().join("other.partial"), left).expect("writes");
        store.get_to_file(&name, &dir.path().join("other")).await.expect("gets");
        assert_eq!(std::fs::read(dir.path().join("other")).expect("there"), content);
    }
}

#[tokio::test]
async fn whoever_is_not_let_in_is_told_where_credentials_are_expected() {
    let s3 = S3::start().await;
    let wrong = [("AWS_ACCESS_KEY_ID", "else"), ("AWS_SECRET_ACCESS_KEY", "hunter2")];
    let store = Store::open_in(&s3.url(), wrong.map(|(k, v)| (k.into(), v.into()))).expect("an address");
    let dir = tempfile::tempdir().expect("a folder");
    let (path, _) = file(&dir, 1, 10);
    let error = store.put_file(&name("x", &path), &path, &Pace::unlimited()).await.expect_err("is refused");
    let told = format!("{error} {error:?} {store:?} {store}");
    assert!(matches!(error, StoreError::Refused { .. }), "{told}");
    assert!(told.contains("AWS_SHARED_CREDENTIALS_FILE") && !told.contains("hunter2"), "{told}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever lies under a name, and whatever part an earlier download has left: either exactly the bytes that hash
    /// to the name come out, or an error and no file.
    #[test]
    fn no_bytes_come_out_that_do_not_hash_to_the_name(
        content in prop::collection::vec(any::<u8>(), 0..200),
        flip in prop::option::of((any::<prop::sample::Index>(), 1u8..)),
        cut in prop::option::of(any::<prop::sample::Index>()),
        more in prop::collection::vec(any::<u8>(), 0..20),
        left in prop::option::of(prop::collection::vec(any::<u8>(), 0..220)),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let dir = tempfile::tempdir().expect("a folder");
            let path = dir.path().join("file");
            std::fs::write(&path, &content).expect("writes");
            let name = name("x", &path);
            let store = Store::open(dir.path().join("store").to_str().expect("text")).expect("a folder");
            store.put_file(&name, &path, &Pace::unlimited()).await.expect("puts");
            let mut stored = content.clone();
            if let Some((at, by)) = &flip && !stored.is_empty() {
                let at = at.index(stored.len());
                stored[at] ^= by;
            }
            if let Some(at) = &cut && !stored.is_empty() {
                stored.truncate(at.index(stored.len()));
            }
            stored.extend(&more);
            std::fs::write(dir.path().join("store").join(name.to_string()), &stored).expect("writes");
            let got = dir.path().join("got");
            if let Some(left) = &left {
                std::fs::write(dir.path().join("got.partial"), left).expect("writes");
            }
            let outcome = store.get_to_file(&name, &got).await;
            let there = std::fs::read(&got).ok();
            match outcome {
                Ok(_) => prop_assert_eq!(there, Some(content)),
                Err(_) => {
                    prop_assert_eq!(there, None);
                    prop_assert!(stored != content, "what is right comes out");
                }
            }
            Ok(())
        })?;
    }
}
