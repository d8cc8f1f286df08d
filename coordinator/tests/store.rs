//! A coordinator's state folder as operators treat it: backed up while it serves, checked, moved, stopped, filled up.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fleet_common::wire::v1;
use fleet_coordinator::service::rpc::operator_client::OperatorClient;
use serde_json::Value;
use support::{FLEET, Serving};

/// A coordinator; killed when dropped.
struct Coordinator {
    serving: Serving,
    url: String,
}

impl Coordinator {
    fn start(state: &Path) -> Self {
        Self::start_with(state, &state.with_extension("log"))
    }

    fn start_with(state: &Path, log: &Path) -> Self {
        let mut command = Command::new(FLEET);
        command.arg("serve").arg("--state").arg(state).args(["--listen", "127.0.0.1:0"]);
        let serving = Serving::start(command.env_remove("FLEET_LOG"), log);
        Self { url: serving.url.clone(), serving }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.serving.child);
        rustix::process::kill_process(pid, signal).expect("our own child");
    }

    fn stop(mut self) -> Option<i32> {
        self.signal(rustix::process::Signal::TERM);
        self.serving.child.wait().expect("ends").code()
    }
}

fn fleet(args: &[&str]) -> Output {
    Command::new(FLEET).args(args).env_remove("FLEET_COORDINATOR").output().expect("runs")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("reads") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, target).expect("copies");
        }
    }
}

/// A state folder with two finished trials, two that were called off, and an imported set.
fn state(dir: &tempfile::TempDir) -> PathBuf {
    let state = dir.path().join("state");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/state-2"), &state);
    state
}

fn campaigns(url: &str) -> Value {
    let output = fleet(&["status", "--json", "--coordinator", url]);
    let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", said(&output)));
    assert_eq!(status["storage_problems"], Value::Array(Vec::new()));
    let strip = |c: &Value| (c["name"].clone(), c["finished"].clone(), c["cancelled"].clone());
    let campaigns: Vec<_> = status["campaigns"].as_array().expect("a list").iter().map(strip).collect();
    serde_json::to_value(campaigns).expect("JSON")
}

#[test]
fn a_backup_of_a_running_coordinator_is_checked_and_served_from() {
    let dir = tempfile::tempdir().expect("a folder");
    let coordinator = Coordinator::start(&state(&dir));
    let dest = dir.path().join("backups/today");
    let backup = || fleet(&["backup", text(&dest), "--coordinator", &coordinator.url]);
    // An earlier try was interrupted behind the journal, and in the middle of a file of samples.
    let partial = dir.path().join("backups/today.partial");
    copy(&state(&dir).join("journal"), &partial.join("journal"));
    std::fs::create_dir_all(partial.join("samples/91")).expect("a folder");
    std::fs::write(partial.join("samples/91/91ebc52066e431668d76e53ff306f73b-0-1.chunks"), b"torn").expect("writes");
    // What waits in the intake for its chunk file is kept, too.
    let waiting = dir.path().join("state/samples/intake/7.chunks");
    std::fs::create_dir_all(waiting.parent().expect("a folder")).expect("a folder");
    std::fs::write(&waiting, b"waits").expect("writes");
    let first = backup();
    assert_eq!(std::fs::read(dest.join("samples/intake/7.chunks")).expect("copied"), b"waits");
    assert!(first.status.success(), "{}", said(&first));
    assert!(said(&first).contains("are here; going on with the rest") && said(&first).contains("2 records, checked"));
    assert!(dest.is_dir() && !partial.exists());
    let again = backup();
    assert_eq!(again.status.code(), Some(2), "{}", said(&again));
    assert!(said(&again).contains("exists; name a new folder"));
    let held = fleet(&["store", "verify", text(&dir.path().join("state"))]);
    assert_eq!(held.status.code(), Some(1));
    assert!(said(&held).contains("a coordinator has") && said(&held).contains("fleet backup DEST"), "{}", said(&held));
    let before = campaigns(&coordinator.url);
    assert_eq!(coordinator.stop(), Some(0));
    let verify = fleet(&["store", "verify", text(&dest), "--json"]);
    let verified: Value = serde_json::from_slice(&verify.stdout).expect("JSON");
    assert_eq!((&verified["is_whole"], &verified["records"]), (&Value::Bool(true), &Value::from(2)), "{verified}");
    let copy = Coordinator::start(&dest);
    assert_eq!(campaigns(&copy.url), before);
    let export = fleet(&["export", "first", "--csv", "-", "--coordinator", &copy.url]);
    assert_eq!(String::from_utf8_lossy(&export.stdout).lines().count(), 3, "{}", said(&export));
}

#[test]
fn what_is_wrong_with_a_folder_is_told_and_a_state_moves_as_one_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let state = state(&dir);
    let file = dir.path().join("moved.tar.zst");
    let export = fleet(&["store", "export", text(&state), text(&file)]);
    assert!(export.status.success() && said(&export).contains("2 files of samples"), "{}", said(&export));
    let new = dir.path().join("new");
    let import = fleet(&["store", "import", text(&file), text(&new)]);
    assert!(import.status.success() && said(&import).contains("fleet serve --state"), "{}", said(&import));
    let rebuild = fleet(&["store", "rebuild", text(&new)]);
    assert!(rebuild.status.success() && said(&rebuild).contains("from 9 events (4 trials)"), "{}", said(&rebuild));
    let verify = fleet(&["store", "verify", text(&new)]);
    assert!(verify.status.success() && said(&verify).contains("Everything is as it should be."), "{}", said(&verify));
    let segment = new.join("journal/00000000000000000001.log");
    let mut bytes = std::fs::read(&segment).expect("reads");
    bytes[5000] ^= 1;
    std::fs::write(&segment, bytes).expect("writes");
    let verify = fleet(&["store", "verify", text(&new)]);
    assert_eq!(verify.status.code(), Some(1));
    for words in ["WRONG", "00000000000000000001.log", "are no events", "costs:", "to do:"] {
        assert!(said(&verify).contains(words), "{words}: {}", said(&verify));
    }
    let nothing = fleet(&["store", "verify", text(&dir.path().join("nothing"))]);
    assert_eq!(nothing.status.code(), Some(2), "{}", said(&nothing));
}

/// Whoever waits is answered, what was done is in a snapshot, and nobody waits for a coordinator that is asked twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_answers_those_who_wait_and_a_second_one_ends_at_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = state(&dir);
    for file in std::fs::read_dir(folder.join("snapshots")).expect("reads") {
        std::fs::remove_file(file.expect("an entry").path()).expect("removes");
    }
    let coordinator = Coordinator::start(&folder);
    let mut client = OperatorClient::connect(coordinator.url.clone()).await.expect("connects");
    // A stream that has no end of its own.
    let mut watching = client.watch(v1::StatusRequest::default()).await.expect("a stream").into_inner();
    watching.message().await.expect("an answer").expect("a status");
    let stopped = tokio::task::spawn_blocking(move || coordinator.stop());
    let last = loop {
        match watching.message().await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    let refusal = last.expect_err("the stream ends with words");
    assert!(refusal.message().contains("shutting down"), "{refusal}");
    assert_eq!(stopped.await.expect("joins"), Some(0));
    assert_eq!(std::fs::read_dir(folder.join("snapshots")).expect("reads").count(), 1);

    let mut coordinator = Coordinator::start(&folder);
    let mut client = OperatorClient::connect(coordinator.url.clone()).await.expect("connects");
    let mut watching = client.watch(v1::StatusRequest::default()).await.expect("a stream").into_inner();
    watching.message().await.expect("an answer").expect("a status");
    coordinator.signal(rustix::process::Signal::TERM);
    let log = || std::fs::read_to_string(folder.with_extension("log")).expect("a log");
    // The first one's log is in front.
    while log().matches("a second signal ends at once").count() < 2 {
        tokio::task::yield_now().await;
    }
    coordinator.signal(rustix::process::Signal::TERM);
    let code = tokio::task::spawn_blocking(move || coordinator.serving.child.wait().expect("ends").code());
    assert_eq!(code.await.expect("joins"), Some(130));
}

/// A small filesystem, gone when dropped.
struct Small(PathBuf);

impl Small {
    /// None where the system does not let us.
    fn mount(at: PathBuf, kib: u32) -> Option<Self> {
        std::fs::create_dir_all(&at).expect("a folder");
        let options = format!("size={kib}k");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&at).output();
        mount.is_ok_and(|m| m.status.success()).then_some(Self(at))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

const CAMPAIGN: &str = "name = \"full\"\nseeds = [0]\n[matrix]\nmethod = \"lora\"\nbackbone = \"vit_micro\"\n\
                        dataset = \"textures\"\n[train]\nsteps = 10\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_refuses_and_works_again_by_itself_once_there_is_space() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(disk) = Small::mount(dir.path().join("disk"), 3 << 10) else {
        eprintln!("SKIPPED: no small filesystem can be mounted here (that takes root)");
        return;
    };
    let folder = disk.0.join("state");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/state-2"), &folder);
    let log = dir.path().join("log");
    let coordinator = Coordinator::start_with(&folder, &log);
    let ballast = disk.0.join("ballast");
    let fill = || {
        let mut file = std::fs::File::create(&ballast).expect("creates");
        while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    };
    let mut client = OperatorClient::connect(coordinator.url.clone()).await.expect("connects");
    let dataset =
        v1::ResolvedDataset { name: "textures".into(), fingerprint: "f".repeat(64), classes: 8, train: 100, test: 100 };
    let request = |seed: u32| v1::SubmitRequest {
        file_name: "c.toml".into(),
        toml: CAMPAIGN.replace("[0]", &format!("[{seed}]")),
        datasets: vec![dataset.clone()],
        ..Default::default()
    };
    client.submit(request(1)).await.expect("there is space");
    fill();
    // The journal's last page may have room for some.
    let mut refused = None;
    for seed in 2..200 {
        if let Err(status) = client.submit(request(seed)).await {
            refused = Some((seed, status));
            break;
        }
    }
    let (seed, refused) = refused.expect("the disk is full");
    assert!(refused.code() == tonic::Code::Unavailable && refused.message().contains("disk full"), "{refused}");
    let status = fleet(&["status", "--coordinator", &coordinator.url]);
    assert!(said(&status).contains("the coordinator's storage: journal:"), "{}", said(&status));
    std::fs::remove_file(&ballast).expect("removes");
    // It is found out without anybody's asking for anything.
    let mut healed = client.status(v1::StatusRequest::default()).await.expect("answers").into_inner();
    while !healed.storage_problems.is_empty() {
        tokio::task::yield_now().await;
        healed = client.status(v1::StatusRequest::default()).await.expect("answers").into_inner();
    }
    client.submit(request(seed)).await.expect("there is space again");
    let trials = client.campaign(v1::CampaignRequest { campaign: "full".into() }).await.expect("there").into_inner();
    assert_eq!(trials.toml, request(seed).toml, "the latest that was confirmed");
    campaigns(&coordinator.url);
    // A snapshot that does not fit keeps nobody from stopping.
    fill();
    assert_eq!(coordinator.stop(), Some(0));
    let log = std::fs::read_to_string(&log).expect("a log");
    assert!(log.contains("the next start takes longer"), "{log}");
    std::fs::remove_file(&ballast).expect("removes");
    let verify = fleet(&["store", "verify", text(&folder)]);
    assert!(verify.status.success(), "{}", said(&verify));
    let again = Coordinator::start(&folder);
    assert!(campaigns(&again.url).to_string().contains("\"full\""));
}
