//! Content from an S3-compatible store that breaks off, fails and has the wrong thing.

#[path = "../../common/artifacts/tests/support/mod.rs"]
mod s3;

use std::path::Path;

use fleet_agent::cache::{Bucket, Cache, CacheError, Kept, Patience, Source, Watch};
use fleet_artifacts::Store;
use fleet_common::canonical::sha256_hex;
use fleet_common::units::Bytes;
use fleet_content::folder::{blob_folder, manifest_place};
use fleet_content::{Digest, Entry, Item, Manifest, RelativePath};
use s3::S3;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Puts weights of these bytes into the bucket, as a copy of a folder of content has them.
fn upload(s3: &S3, bytes: &[u8]) -> (Item, String) {
    let sha256: Digest = sha256_hex(bytes).parse().expect("a hash");
    let path = RelativePath::try_from("w.safetensors".to_owned()).expect("a path");
    let files = vec![Entry { path, bytes: bytes.len() as u64, sha256: sha256.clone() }];
    let item = Item::Weights(sha256.clone());
    let manifest = Manifest::new(item.clone(), "w".into(), files).expect("a manifest");
    let blob = format!("some/prefix/{}/{sha256}", blob_folder(&sha256));
    s3.inner().objects.insert(blob.clone(), bytes.to_vec());
    s3.inner().objects.insert(format!("some/prefix/{}", manifest_place(&item)), manifest.to_json());
    (item, blob)
}

fn store(s3: &S3, secret: &str) -> Store {
    let environment = [("AWS_ACCESS_KEY_ID", s3::KEY), ("AWS_SECRET_ACCESS_KEY", secret)];
    Store::open_in(&s3.url(), environment.map(|(k, v)| (k.to_owned(), v.to_owned()))).expect("an address")
}

/// As the daemon does: on a thread that may block.
async fn get(place: &Path, item: &Item, store: Store) -> Result<Kept, CacheError> {
    let (place, item, runtime) = (place.to_owned(), item.clone(), Handle::current());
    let (waiting, stop) = watch::channel(false);
    let getting = tokio::task::spawn_blocking(move || {
        let cache = Cache::open(&place, Bytes(1 << 30)).expect("opens");
        let bucket: Box<dyn Source> = Box::new(Bucket::new(store, Patience::new(runtime, stop.clone())));
        cache.get(&item, &mut [bucket], &Watch { tell: Box::new(|_, _| ()), stop })
    });
    let got = getting.await.expect("ends");
    drop(waiting);
    got
}

fn asked(s3: &S3, method: &str) -> usize {
    s3.inner().asked.iter().filter(|a| a.starts_with(method)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_folder_in_a_bucket_is_a_source_that_may_break_off_and_fail() {
    let (s3, dir) = (S3::start().await, tempfile::tempdir().expect("a folder"));
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| (n * 31 % 251) as u8).collect();
    let (item, _) = upload(&s3, &bytes);
    s3.inner().faults.cut = Some((2, 1_000_000));
    s3.inner().faults.fail = 1;
    let kept = get(dir.path(), &item, store(&s3, s3::SECRET)).await.expect("comes");
    assert_eq!(std::fs::read(&kept.place).expect("reads"), bytes);
    assert_eq!(s3.inner().faults.cut, Some((0, 1_000_000)), "it broke off twice");
    let questions = asked(&s3, "GET");
    drop(kept);
    get(dir.path(), &item, store(&s3, s3::SECRET)).await.expect("is here");
    assert_eq!(asked(&s3, "GET"), questions, "what is here is not asked for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_bucket_lacks_has_wrong_or_keeps_to_itself_is_said() {
    let (s3, dir) = (S3::start().await, tempfile::tempdir().expect("a folder"));
    let refusal = async |item: &Item, secret: &str| {
        let error = get(dir.path(), item, store(&s3, secret)).await.expect_err("cannot be had");
        let text = error.to_string();
        assert!(!text.contains(s3::SECRET), "{text}");
        text
    };
    let (item, blob) = upload(&s3, b"weights");
    s3.inner().objects.insert(blob.clone(), b"weighty".to_vec());
    let text = refusal(&item, s3::SECRET).await;
    assert!(text.contains("damaged 3 times") && text.contains("s3://bucket/some/prefix"), "{text}");
    s3.inner().objects.remove(&blob);
    let text = refusal(&item, s3::SECRET).await;
    assert!(text.contains("is nowhere") && text.contains("is not in the store"), "{text}");
    let manifest = format!("some/prefix/{}", manifest_place(&item));
    s3.inner().objects.insert(manifest.clone(), b"{}".to_vec());
    assert!(refusal(&item, s3::SECRET).await.contains("items/weights-"));
    s3.inner().objects.remove(&manifest);
    assert!(refusal(&item, s3::SECRET).await.contains("it does not have it"));
}
