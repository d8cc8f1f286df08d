//! Containers: compose files by what compose knows and by what these services need, Containerfiles by what commonly goes
//! wrong in them. No image is built.

use std::process::Command;

use serde_json::Value;

use super::{ODD, documents, file, path, script};

/// Keys of a service that these files may use, as the compose specification has them.
const SERVICE: [&str; 20] = [
    "build",
    "cap_drop",
    "command",
    "depends_on",
    "deploy",
    "entrypoint",
    "environment",
    "image",
    "init",
    "networks",
    "ports",
    "profiles",
    "read_only",
    "restart",
    "secrets",
    "security_opt",
    "stop_grace_period",
    "tmpfs",
    "volumes",
    "healthcheck",
];

fn compose(text: &str) -> Value {
    let document = documents(text).remove(0);
    let top = document.as_object().expect("a map");
    for key in top.keys() {
        let known = ["name", "services", "networks", "volumes", "secrets"].contains(&key.as_str());
        assert!(known || key.starts_with("x-"), "compose does not know {key}");
    }
    for (name, service) in document["services"].as_object().expect("services") {
        let service = service.as_object().expect("a map");
        for key in service.keys() {
            assert!(SERVICE.contains(&key.as_str()), "{name}: compose does not know {key}, or this test should");
        }
    }
    document
}

/// The name of the volume or folder in front of a mount, short or long.
fn source(mount: &Value) -> &str {
    mount.as_str().map_or_else(|| mount["source"].as_str().expect("a source"), |m| m.split(':').next().unwrap_or(m))
}

fn is_sound(name: &str, document: &Value) {
    for (service, it) in document["services"].as_object().expect("services") {
        let what = format!("{name}, {service}");
        assert_eq!((&it["read_only"], &it["init"]), (&true.into(), &true.into()), "{what}");
        assert_eq!(
            (&it["cap_drop"][0], &it["security_opt"][0]),
            (&"ALL".into(), &"no-new-privileges:true".into()),
            "{what}"
        );
        let grace = it["stop_grace_period"].as_str().and_then(|g| g.strip_suffix('s')?.parse::<u32>().ok());
        let needs = if service == "coordinator" { 30 } else { 60 };
        assert!(grace.is_some_and(|g| g >= needs), "{what}: states and leases need time");
        assert!(it["image"].as_str().is_some_and(|i| i.contains(':')), "{what}: an image has a version");
        let mounts = it["volumes"].as_array().expect("a state");
        let state = mounts.iter().find(|m| m.to_string().contains("/var/lib/netscore-fleet")).expect("a state");
        assert!(document["volumes"].get(source(state)).is_some(), "{what}: {state} is not declared");
        for network in it["networks"].as_array().into_iter().flatten() {
            assert!(document["networks"].get(network.as_str().expect("a name")).is_some(), "{what}");
        }
        for secret in it["secrets"].as_array().into_iter().flatten() {
            assert!(document["secrets"].get(secret.as_str().expect("a name")).is_some(), "{what}");
        }
    }
}

#[test]
fn the_fleet_on_one_machine_is_whole() {
    let document = compose(&file("compose.yaml"));
    is_sound("compose.yaml", &document);
    let services = &document["services"];
    for (agent, torch) in [("agent-cpu", "cpu"), ("agent-gpu", "cuda")] {
        let it = &services[agent];
        assert_eq!(it["depends_on"]["coordinator"]["condition"], "service_healthy", "{agent}");
        assert_eq!(it["environment"]["FLEET_COORDINATOR"], "http://coordinator:7070", "{agent}");
        assert_eq!(it["build"]["args"]["TORCH"], torch);
        assert!(it["image"].as_str().is_some_and(|i| i.ends_with(torch)), "{agent}");
    }
    for (name, it) in services.as_object().expect("services") {
        let build = &it["build"];
        let context = build["context"].as_str().expect("a folder");
        let containerfile = path(context).join(build["dockerfile"].as_str().expect("a file"));
        assert!(containerfile.exists(), "{name}: {} is not there", containerfile.display());
    }
    let gpu = &services["agent-gpu"];
    assert_eq!(gpu["profiles"][0], "gpu", "machines without one start the rest");
    assert_eq!(gpu["deploy"]["resources"]["reservations"]["devices"][0]["driver"], "nvidia");
    assert!(
        services["coordinator"]["ports"][0].as_str().is_some_and(|p| p.starts_with("127.0.0.1:")),
        "it is not encrypted"
    );
}

#[test]
fn what_is_printed_for_another_machine_means_what_was_asked_for() {
    is_sound("agent.compose.yaml", &compose(&file("container/agent.compose.yaml")));
    let data = "/srv/$data: x";
    let text = script(&[
        "compose",
        "--coordinator",
        "https://c.example:1",
        "--gpus",
        "2",
        "--label",
        ODD,
        "--data",
        data,
        "--join-token-file",
        "/etc/my token",
    ]);
    let document = compose(&text);
    is_sound("printed", &document);
    let agent = &document["services"]["agent"];
    let variable = |name: &str| agent["environment"][name].as_str().expect("text").replace("$$", "$");
    assert_eq!((variable("FLEET_COORDINATOR"), variable("FLEET_LABEL")), ("https://c.example:1".into(), ODD.into()));
    assert_eq!(agent["deploy"]["resources"]["reservations"]["devices"][0]["count"], 2);
    assert!(agent["volumes"].to_string().contains("/srv/$$data: x"), "compose would look for a variable");
    assert_eq!(document["secrets"]["join-token"]["file"], "/etc/my token");
    assert!(agent["image"].as_str().is_some_and(|i| i.ends_with("-cuda")));
    let cpu = compose(&script(&["compose", "--coordinator", "http://c.example:1"]));
    assert!(cpu["services"]["agent"]["image"].as_str().is_some_and(|i| i.ends_with("-cpu")));
    assert!(cpu.get("secrets").is_none());
}

/// Compose's own opinion, which needs no engine.
#[test]
fn compose_has_nothing_to_say_about_the_files() {
    let program = [&["docker", "compose"][..], &["docker-compose"]].into_iter().find(|program| {
        let version = Command::new(program[0]).args(&program[1..]).arg("version").output();
        version.is_ok_and(|v| v.status.success())
    });
    let Some(program) = program else { return eprintln!("skipped: docker compose is not installed here") };
    let dir = tempfile::tempdir().expect("a folder");
    let printed = dir.path().join("printed.yaml");
    let arguments = ["compose", "--coordinator", "http://c.example:1", "--gpus", "1", "--label", ODD, "--tag", "a=b"];
    std::fs::write(&printed, script(&[&arguments[..], &["--join-token-file", "/etc/t"]].concat())).expect("written");
    for file in [path("compose.yaml"), path("container/agent.compose.yaml"), printed] {
        let mut command = Command::new(program[0]);
        let output = command.args(&program[1..]).arg("-f").arg(&file).args(["--profile", "gpu", "config"]).output();
        let output = output.expect("runs");
        let words = String::from_utf8_lossy(&output.stderr);
        // A variable that is not set is one that was not meant.
        assert!(output.status.success() && !words.contains("variable is not set"), "{}: {words}", file.display());
    }
}

/// Instructions of a Containerfile, lines joined, comments gone.
fn instructions(text: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim_start().starts_with('#')).collect();
    let joined = lines.join("\n").replace("\\\n", " ");
    let lines = joined.lines().filter(|l| !l.trim().is_empty());
    lines
        .map(|l| l.split_once(' ').expect("an instruction and its words"))
        .map(|(i, w)| (i.to_owned(), w.trim().to_owned()))
        .collect()
}

#[test]
fn containerfiles_have_versions_stages_a_user_and_a_health() {
    const KNOWN: [&str; 14] = [
        "FROM",
        "ARG",
        "WORKDIR",
        "COPY",
        "RUN",
        "ENV",
        "USER",
        "VOLUME",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
        "LABEL",
    ];
    for name in ["coordinator.Containerfile", "agent.Containerfile"] {
        let all = instructions(&file(&format!("container/{name}")));
        assert!(all.iter().all(|(i, _)| KNOWN.contains(&i.as_str())), "{name}: {all:?}");
        let from: Vec<&str> = all.iter().filter(|(i, _)| i == "FROM").map(|(_, w)| w.as_str()).collect();
        assert_eq!(from.len(), 2, "{name}: one stage builds, one runs");
        for image in &from {
            let version = image.split(' ').next().and_then(|i| i.rsplit_once(':')).map(|(_, version)| version);
            assert!(
                version.is_some_and(|v| v.starts_with(|c: char| c.is_ascii_digit())),
                "{name}: {image} has no version"
            );
        }
        let last: Vec<_> = all.iter().skip(all.iter().rposition(|(i, _)| i == "FROM").expect("a stage")).collect();
        let one = |wanted: &str| {
            let found: Vec<&str> = last.iter().filter(|(i, _)| i == wanted).map(|(_, w)| w.as_str()).collect();
            assert_eq!(found.len(), 1, "{name}: {wanted}");
            found[0]
        };
        assert_eq!(one("USER"), "10001:10001", "{name}: Kubernetes knows no names");
        assert!(one("HEALTHCHECK").contains("CMD [\"healthy\""), "{name}");
        assert!(
            one("ENTRYPOINT").starts_with('[') && one("CMD").starts_with('['),
            "{name}: a shell would keep signals"
        );
        for words in [one("ENTRYPOINT"), one("CMD")] {
            serde_json::from_str::<Vec<String>>(words).unwrap_or_else(|e| panic!("{name}: {words}: {e}"));
        }
        for (instruction, words) in &all {
            assert!(
                !(instruction == "RUN" && words.contains("apt-get")) || words.contains("rm -rf /var/lib/apt/lists"),
                "{name}"
            );
            assert!(!words.contains("sudo ") && !words.contains(":latest"), "{name}: {words}");
            // What is copied from here has to be here.
            if instruction == "COPY" && !words.starts_with("--from") {
                let from: Vec<&str> = words.split(' ').collect();
                for source in &from[..from.len() - 1] {
                    assert!(path("..").join(source).exists(), "{name}: {source} is not there");
                }
            }
        }
    }
}

#[test]
fn the_compiler_of_the_images_is_the_repository_s() {
    let toolchain = std::fs::read_to_string(path("../rust-toolchain.toml")).expect("a file");
    let channel = toolchain.lines().find_map(|l| l.strip_prefix("channel = ")).expect("a version").trim_matches('"');
    for name in ["coordinator.Containerfile", "agent.Containerfile"] {
        assert!(file(&format!("container/{name}")).contains(&format!("/rust:{channel}-")), "{name}");
    }
}

#[test]
fn a_program_is_healthy_if_it_says_so() {
    use std::io::{BufRead as _, Write as _};
    for (status, healthy) in [("200 OK", true), ("503 Service Unavailable", false)] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port().to_string();
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("asks");
            let request = std::io::BufReader::new(stream.try_clone().expect("a socket")).lines();
            let asked = request.map_while(Result::ok).take_while(|l| !l.is_empty()).collect::<Vec<_>>();
            assert_eq!(asked[0], "GET /healthz HTTP/1.1");
            let _ = stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes());
        });
        let asked = Command::new(path("container/healthy")).arg(&port).status().expect("runs");
        assert_eq!(asked.success(), healthy, "{status}");
        serving.join().expect("ends");
    }
    let nobody = Command::new(path("container/healthy")).arg("1").output().expect("runs");
    assert!(!nobody.status.success());
}
