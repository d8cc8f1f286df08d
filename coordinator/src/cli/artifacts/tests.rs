//! The artifact store through a coordinator: what goes in and comes out, and who is refused.

use std::path::Path;
use std::time::{Duration, SystemTime};

use fleet_artifacts::{Name, sha256_of};
use fleet_common::record::Artifact;
use fleet_common::wire::v1;
use tonic::{Code, Status};

use crate::cli::Failure;
use crate::cli::tests::{World, finished};
use crate::report::tests::records;
use crate::service::rpc::artifacts_client::ArtifactsClient;

type Client = ArtifactsClient<tonic::transport::Channel>;

/// Bytes under their name in the folder `folder`.
fn named(dir: &Path, folder: &str, content: &[u8]) -> Name {
    let file = dir.join("content");
    std::fs::write(&file, content).expect("writes");
    Name::new(folder, sha256_of(&file).expect("reads")).expect("a name")
}

/// Puts an artifact into the store of the coordinator in `dir`, from behind.
fn place(dir: &Path, name: &Name, content: &[u8], age: Duration) -> std::path::PathBuf {
    let path = dir.join("state/artifacts/store").join(name.to_string());
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    std::fs::write(&path, content).expect("writes");
    let file = std::fs::File::options().write(true).open(&path).expect("opens");
    file.set_modified(SystemTime::now() - age).expect("sets");
    path
}

async fn client(w: &World) -> Client {
    Client::connect(format!("http://{}", w.running.address)).await.expect("connects")
}

async fn standing(client: &mut Client, name: &Name) -> (bool, u64) {
    let request = v1::StandingRequest { name: name.to_string() };
    let standing = client.standing(request).await.expect("answers").into_inner();
    (standing.complete, standing.bytes)
}

async fn put(client: &mut Client, upload: v1::ArtifactUpload, data: &[u8]) -> Result<(bool, u64), Status> {
    let mut parts: Vec<v1::ArtifactPart> =
        data.chunks(1000).map(|c| v1::ArtifactPart { upload: None, data: c.to_vec() }).collect();
    parts.insert(0, v1::ArtifactPart { upload: Some(upload), data: Vec::new() });
    let standing = client.put(tokio_stream::iter(parts)).await?.into_inner();
    Ok((standing.complete, standing.bytes))
}

async fn get(client: &mut Client, name: &Name, from: u64) -> Result<Vec<u8>, Status> {
    let mut stream = client.get(v1::GetArtifactRequest { name: name.to_string(), from }).await?.into_inner();
    let mut all = Vec::new();
    while let Some(part) = stream.message().await? {
        all.extend(part.data);
    }
    Ok(all)
}

#[tokio::test]
async fn an_upload_goes_on_where_it_broke_and_only_what_is_right_is_kept() {
    let dir = tempfile::tempdir().expect("a folder");
    let records = records();
    finished(&dir.path().join("state"), "nightly", &records);
    let w = World::start(dir).await;
    let mut client = client(&w).await;
    let content: Vec<u8> = (0..600_000u32).flat_map(u32::to_le_bytes).collect();
    let trial = &records[0].trial;
    let folder = format!("states/{}", trial.file_stem());
    let name = named(w.dir.path(), &folder, &content);
    let upload = |offset: u64| v1::ArtifactUpload {
        name: name.to_string(),
        bytes: content.len() as u64,
        offset,
        trial: Some(trial.into()),
        attempt: 1,
    };
    assert_eq!(standing(&mut client, &name).await, (false, 0));
    assert_eq!(get(&mut client, &name, 0).await.expect_err("absent").code(), Code::NotFound);
    assert_eq!(put(&mut client, upload(0), &content[..100_000]).await.expect("a part"), (false, 100_000));
    assert_eq!(standing(&mut client, &name).await, (false, 100_000));
    let wrong = put(&mut client, upload(5), &content[5..]).await.expect_err("not where it broke");
    assert_eq!(wrong.code(), Code::Aborted);
    let whole = (true, content.len() as u64);
    assert_eq!(put(&mut client, upload(100_000), &content[100_000..]).await.expect("the rest"), whole);
    assert_eq!(standing(&mut client, &name).await, whole);
    assert_eq!(put(&mut client, upload(0), &[]).await.expect("is there"), whole);
    assert!(get(&mut client, &name, 0).await.expect("comes") == content);
    assert!(get(&mut client, &name, 2_000_001).await.expect("comes") == content[2_000_001..]);
    assert!(get(&mut client, &name, whole.1).await.expect("nothing is left").is_empty());
    assert_eq!(get(&mut client, &name, whole.1 + 1).await.expect_err("too much").code(), Code::FailedPrecondition);
    // Other content under a name.
    let other = named(w.dir.path(), &folder, b"right");
    let of_other = |bytes: u64| v1::ArtifactUpload { name: other.to_string(), bytes, ..upload(0) };
    assert_eq!(put(&mut client, of_other(5), b"wrong").await.expect_err("damaged").code(), Code::DataLoss);
    assert_eq!(standing(&mut client, &other).await, (false, 0), "nothing of it is left");
    assert_eq!(put(&mut client, of_other(4), b"right").await.expect_err("too long").code(), Code::InvalidArgument);
}

#[tokio::test]
async fn agents_write_into_the_folders_of_their_trials_and_tell_of_what_is_there() {
    let dir = tempfile::tempdir().expect("a folder");
    let records = records();
    finished(&dir.path().join("state"), "nightly", &records);
    let w = World::start(dir).await;
    let mut client = client(&w).await;
    let trial = &records[0].trial;
    let upload = |name: &Name, attempt: u32| v1::ArtifactUpload {
        name: name.to_string(),
        bytes: 1,
        offset: 0,
        trial: Some(trial.into()),
        attempt,
    };
    for (folder, attempt, code) in [
        (format!("states/{}", trial.file_stem()), 2, Code::PermissionDenied),
        (format!("states/{}", records[1].trial.file_stem()), 1, Code::InvalidArgument),
        (format!("else/{}", trial.file_stem()), 1, Code::InvalidArgument),
    ] {
        let name = named(w.dir.path(), &folder, b"x");
        assert_eq!(put(&mut client, upload(&name, attempt), b"x").await.expect_err("refused").code(), code, "{folder}");
    }
    let name = named(w.dir.path(), &format!("states/{}", trial.file_stem()), b"x");
    let state = v1::ResumableState {
        attempt: 1,
        step: 5,
        artifact: name.to_string(),
        bytes: 1,
        hardware: records[0].machine.hardware.to_string(),
    };
    let told = v1::SavedRequest {
        agent: records[0].machine.agent.to_string(),
        slot: records[0].machine.slot.to_string(),
        trial: Some(trial.into()),
        state: Some(state),
    };
    let nothing = client.saved(told.clone()).await.expect_err("nothing is there");
    assert!(nothing.code() == Code::FailedPrecondition && nothing.message().contains("same store"), "{nothing}");
    put(&mut client, upload(&name, 1), b"x").await.expect("puts");
    let reply = client.saved(told).await.expect("answers").into_inner();
    assert_eq!((reply.accepted, reply.reason.as_str()), (false, "it is finished"));
}

#[tokio::test]
async fn what_nobody_wants_is_removed_at_the_start_unless_it_is_new() {
    let dir = tempfile::tempdir().expect("a folder");
    let old = named(dir.path(), "states/a-0", b"old");
    let new = named(dir.path(), "states/a-0", b"new");
    let kept = named(dir.path(), "kept/a-0", b"kept");
    let age = Duration::from_secs(7200);
    let old = place(dir.path(), &old, b"old", age);
    let others = [place(dir.path(), &new, b"new", Duration::ZERO), place(dir.path(), &kept, b"kept", age)];
    let _w = World::start(dir).await;
    let gone = async {
        while old.exists() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), gone).await.expect("it is removed");
    assert!(others.iter().all(|path| path.exists()));
}

#[tokio::test]
async fn kept_weights_are_listed_and_fetched_whole_or_not_at_all() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut records = records();
    let weights: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    let name = named(dir.path(), &format!("kept/{}", records[0].trial.file_stem()), &weights);
    let artifact = |stored: Option<String>| Artifact {
        path: "somewhere/weights.safetensors".into(),
        sha256: name.sha256().to_string(),
        stored,
    };
    records[0].artifact = Some(artifact(Some(name.to_string())));
    records[1].artifact = Some(artifact(None));
    finished(&dir.path().join("state"), "nightly", &records);
    let stored = place(dir.path(), &name, &weights, Duration::ZERO);
    let w = World::start(dir).await;
    w.fleet(&["artifacts", "list", "nightly"]).await.expect("lists");
    w.fleet(&["artifacts", "list", "nightly", "--json"]).await.expect("lists");
    let (out, file) = (w.file("out"), w.dir.path().join("out").join(records[0].trial.file_stem()));
    let file = file.join("weights.safetensors");
    // A part that an interrupted command has left.
    std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
    std::fs::write(file.with_extension("safetensors.partial"), &weights[..300_001]).expect("writes");
    for _ in 0..2 {
        w.fleet(&["artifacts", "get", "nightly", "--out", &out]).await.expect("fetches");
        assert!(std::fs::read(&file).expect("there") == weights);
    }
    let mut damaged = weights.clone();
    damaged[99] ^= 1;
    std::fs::write(&stored, damaged).expect("writes");
    std::fs::remove_file(&file).expect("there");
    let failed = w.fleet(&["artifacts", "get", "nightly", "--out", &out]).await;
    assert!(matches!(&failed, Err(Failure::Failed(why)) if why.contains("damaged")), "{failed:?}");
    assert!(!file.exists());
    let trial = records[1].trial.to_string();
    let told = w.refused(&["artifacts", "get", "nightly", "--out", &out, "--trial", &trial]).await;
    assert!(told.contains("fleet artifacts list nightly"), "{told}");
}
