//! `fleet data` and `fleet weights` as they are typed: what they say, and with which exit code.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

fn fleet(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fleet"));
    command.current_dir(dir).args(arguments).env("NO_PROXY", "127.0.0.1");
    for name in ["FLEET_DATA", "FLEET_WEIGHTS"] {
        command.env_remove(name);
    }
    command
}

#[track_caller]
fn ends(dir: &Path, arguments: &[&str], code: i32, says: &[&str]) {
    let output = fleet(dir, arguments).output().expect("runs");
    ended(&output, code, says);
}

#[track_caller]
fn ended(output: &Output, code: i32, says: &[&str]) {
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{text}");
    for part in says {
        assert!(text.contains(part), "expected \"{part}\" in: {text}");
    }
}

/// A server that answers everything with `head` and `body`, then waits; it passes on the requests' range lines.
fn serve(head: &'static str, body: Vec<u8>, wait: Duration) -> (String, Receiver<Option<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/file", listener.local_addr().expect("an address"));
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let lines = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
            let range = lines.filter(|line| line.to_ascii_lowercase().starts_with("range:")).last();
            let _ = tell.send(range);
            let _ = stream.write_all(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes());
            let _ = stream.write_all(&body);
            sleep(wait);
        }
    });
    (url, told)
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(20), "waited too long for {what}");
        sleep(Duration::from_millis(10));
    }
}

/// A child that does not outlive its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

#[test]
fn what_is_not_there_says_how_to_get_it() {
    let dir = tempfile::tempdir().expect("a folder");
    ends(dir.path(), &["data", "check", "cifar100"], 2, &["cifar-100-binary", "fleet data get cifar100"]);
    ends(dir.path(), &["data", "check", "dtd"], 2, &["dtd", "fleet data get dtd"]);
    ends(dir.path(), &["weights", "check"], 2, &["no weights in weights", "fleet weights get"]);
    ends(dir.path(), &["weights", "check", "vit_micro"], 2, &["vit_micro.safetensors is not there", "could come from"]);
    let says = ["tiny_vit_5m_224.safetensors is not there", "fleet weights get tiny_vit_5m_224` fetches it"];
    ends(dir.path(), &["weights", "check", "tiny_vit_5m_224"], 2, &says);
    assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 0, "checks write nothing");
}

#[test]
fn names_that_are_none_are_wrong_usage() {
    let dir = tempfile::tempdir().expect("a folder");
    ends(dir.path(), &["data", "get", "cifar10"], 2, &["cifar100", "dtd"]);
    ends(dir.path(), &["weights", "get", "vit_huge"], 2, &["vit_huge", "vit_tiny_patch16_224"]);
    ends(dir.path(), &["weights", "get", "vit_micro"], 2, &["no public weights", "vit_small_patch16_224"]);
    let says = ["tiny_vit_21m_224", "no hash", "timm/tiny_vit_21m_224.in1k", "here/tiny_vit_21m_224.safetensors"];
    ends(dir.path(), &["weights", "get", "tiny_vit_21m_224", "--weights", "here"], 2, &says);
    let says = ["timm/tiny_vit_11m_224.dist_in22k_ft_in1k", "What can be fetched", "vit_small_patch16_224"];
    ends(dir.path(), &["weights", "get", "tiny_vit_11m_224"], 2, &says);
    assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 0, "nothing was tried");
    ends(dir.path(), &["weights", "get", "--from", "http://127.0.0.1:9/"], 2, &["BACKBONE"]);
    ends(dir.path(), &["data", "get", "dtd", "--from", "file.tar.gz"], 2, &["file.tar.gz", "http"]);
}

#[test]
fn the_list_says_where_from_and_what_is_here() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::create_dir(dir.path().join("weights")).expect("makes");
    fs::write(dir.path().join("weights/vit_micro.safetensors"), "").expect("writes");
    let says = ["vit_micro", "no public weights", "https://huggingface.co/timm/", "Apache-2.0", "not here", "  here "];
    ends(dir.path(), &["weights", "list"], 0, &["tiny_vit_5m_224.dist_in22k_ft_in1k/resolve", "no hash to check it"]);
    ends(dir.path(), &["weights", "list"], 0, &says);
}

#[test]
fn every_command_shows_an_example() {
    let dir = tempfile::tempdir().expect("a folder");
    for (group, commands) in [("data", ["get", "check"]), ("weights", ["get", "check"]), ("weights", ["list", "list"])]
    {
        ends(dir.path(), &[group, "--help"], 0, &[&format!("Example: fleet {group}")]);
        for command in commands {
            ends(dir.path(), &[group, command, "--help"], 0, &[&format!("Example: fleet {group} {command}")]);
        }
    }
}

#[test]
fn a_wrong_file_is_refused_with_both_hashes() {
    let dir = tempfile::tempdir().expect("a folder");
    let (url, _told) = serve("200 OK\r\nContent-Length: 5", b"wrong".to_vec(), Duration::ZERO);
    let tiny = "vit_tiny_patch16_224";
    // SHA-256 of "wrong".
    let found = "8810ad581e59f2bc3928b261707a71308f7e139eb04820366dc4d5c18d980225";
    let says = ["expected SHA-256 fecf81b4", found, "thrown away"];
    ends(dir.path(), &["weights", "get", tiny, "--from", &url], 1, &says);
    assert_eq!(fs::read_dir(dir.path().join("weights")).expect("lists").count(), 0);
    ends(
        dir.path(),
        &["data", "get", "cifar100", "--from", &url],
        1,
        &["expected 168513733 bytes", "announces 5 bytes"],
    );
}

#[test]
fn a_file_that_lies_about_its_header_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::create_dir(dir.path().join("weights")).expect("makes");
    let file = dir.path().join("weights/vit_micro.safetensors");
    fs::write(&file, [0xff; 100]).expect("writes");
    ends(dir.path(), &["weights", "check"], 2, &["vit_micro.safetensors", "18446744073709551615"]);
    let header = br#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let whole = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 8]].concat();
    fs::write(&file, &whole).expect("writes");
    let says = ["1 (1 F32), 2 numbers", "none are published", "SHA-256"];
    ends(dir.path(), &["weights", "check", "vit_micro"], 0, &says);
    // Public, but nobody says what it must be.
    fs::write(dir.path().join("weights/tiny_vit_11m_224.safetensors"), &whole).expect("writes");
    ends(dir.path(), &["weights", "check", "tiny_vit_11m_224"], 0, &["no hash of the public weights is known here"]);
    // The same, where there is something to compare with.
    fs::write(dir.path().join("weights/vit_tiny_patch16_224.safetensors"), &whole).expect("writes");
    ends(dir.path(), &["weights", "check"], 2, &["not what is published", "expected SHA-256 fecf81b4", "vit_micro"]);
}

/// A checkpoint that torch has written.
fn sample(name: &str) -> Vec<u8> {
    let path = format!("{}/../common/checkpoint/tests/samples/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read(path).expect("a file of the repository")
}

#[test]
fn checkpoints_of_torch_are_found_and_understood() {
    let dir = tempfile::tempdir().expect("a folder");
    let weights = dir.path().join("weights");
    fs::create_dir(&weights).expect("makes");
    for name in ["vit_micro.pth", "vit_micro.pth.tar", "vit_micro.bin"] {
        fs::write(weights.join(name), sample("trained.pth")).expect("writes");
        let says = [name, "7 (6 F32, 1 I64), 33 numbers", "args (argparse.Namespace)", "SHA-256"];
        ends(dir.path(), &["weights", "check"], 0, &says);
        ends(dir.path(), &["weights", "list"], 0, &["  here ", name]);
        fs::remove_file(weights.join(name)).expect("removes");
    }
    fs::write(weights.join("vit_micro.pth"), &sample("trained.pth")[..5000]).expect("writes");
    ends(dir.path(), &["weights", "check"], 2, &["vit_micro.pth", "cut off"]);
    fs::write(weights.join("vit_micro.bin"), sample("flat.bin")).expect("writes");
    for command in [&["weights", "check"][..], &["weights", "check", "vit_micro"], &["weights", "list"]] {
        ends(dir.path(), command, 2, &["vit_micro.pth and ", "vit_micro.bin", "move the other away"]);
    }
    let tiny = "vit_tiny_patch16_224";
    fs::write(weights.join(format!("{tiny}.pth")), sample("flat.bin")).expect("writes");
    let url = "http://127.0.0.1:9/";
    ends(dir.path(), &["weights", "get", tiny, "--from", url], 2, &["vit_tiny_patch16_224.pth is there"]);
}

/// A file of safetensors with such tensors of zeroes, of two rows each.
fn safetensors(names: &[&str]) -> Vec<u8> {
    let tensor = |(at, name): (usize, &&str)| {
        format!(r#""{name}":{{"dtype":"F16","shape":[2,1],"data_offsets":[{},{}]}}"#, 4 * at, 4 * at + 4)
    };
    let header = format!("{{{}}}", names.iter().enumerate().map(tensor).collect::<Vec<_>>().join(","));
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; 4 * names.len()]].concat()
}

/// A tokenizer of so many words.
fn words(count: usize) -> String {
    let vocab: Vec<String> = (0..count).map(|n| format!("\"w{n}\":{n}")).collect();
    format!(
        r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":null,
        "post_processor":null,"decoder":null,
        "model":{{"type":"WordLevel","vocab":{{{}}},"unk_token":"w0"}}}}"#,
        vocab.join(",")
    )
}

/// The folder of a small SigLIP whose weights are in two files.
fn siglip(root: &Path) {
    fs::create_dir_all(root).expect("makes");
    let index = r#"{"weight_map":{"vision_model.a":"m-1.safetensors","text_model.embeddings.token_embedding.weight":"m-2.safetensors"}}"#;
    for (name, content) in [
        ("config.json", br#"{"model_type":"siglip","text_config":{}}"#.to_vec()),
        ("tokenizer.json", words(2).into_bytes()),
        ("model.safetensors.index.json", index.as_bytes().to_vec()),
        ("m-1.safetensors", safetensors(&["vision_model.a"])),
        ("m-2.safetensors", safetensors(&["text_model.embeddings.token_embedding.weight"])),
    ] {
        fs::write(root.join(name), content).expect("writes");
    }
}

#[test]
fn the_folder_of_a_published_model_is_whole_or_it_is_said_what_is_wrong() {
    let dir = tempfile::tempdir().expect("a folder");
    let name = "siglip_base_patch16_224";
    let root = dir.path().join("weights").join(name);
    let check = |code, says: &[&str]| ends(dir.path(), &["weights", "check", name], code, says);
    check(2, &["weights/siglip_base_patch16_224", "huggingface.co/google/siglip-base", "tokenizer.json"]);
    siglip(&root);
    let all =
        ["5 files", "siglip", "2 (2 F16), 4 numbers", "2 tokens, of 2 that the model knows", "fingerprint", "203.2"];
    check(0, &all);
    ends(dir.path(), &["weights", "check"], 0, &all);
    // By its path: what it is of, its configuration says.
    ends(dir.path(), &["weights", "check", "./weights/siglip_base_patch16_224"], 0, &all);
    fs::rename(&root, dir.path().join("downloaded")).expect("renames");
    ends(dir.path(), &["weights", "check", "./downloaded/"], 0, &all[..5]);
    ends(dir.path(), &["weights", "check", "downloaded"], 2, &["\"./downloaded\""]);
    fs::rename(dir.path().join("downloaded"), &root).expect("renames");

    let broken = |file: &str, content: Option<&[u8]>, says: &[&str]| {
        let before = fs::read(root.join(file)).expect("there");
        match content {
            Some(content) => fs::write(root.join(file), content).expect("writes"),
            None => fs::remove_file(root.join(file)).expect("removes"),
        }
        check(2, says);
        fs::write(root.join(file), before).expect("writes");
    };
    broken("m-2.safetensors", None, &["m-2.safetensors is not there", "fetch it too"]);
    broken("m-2.safetensors", Some(&safetensors(&["b"])[..20]), &["m-2.safetensors"]);
    let says = ["text_model.embeddings.token_embedding.weight in m-2.safetensors", "not of one model"];
    broken("m-2.safetensors", Some(&safetensors(&["b"])), &says);
    broken("m-2.safetensors", Some(&safetensors(&["vision_model.a"])), &["in m-1.safetensors, too"]);
    broken("tokenizer.json", None, &["no tokenizer", "spiece.model"]);
    broken("tokenizer.json", Some(b"{}"), &["tokenizer.json", "cannot be used"]);
    broken(
        "tokenizer.json",
        Some(words(3).as_bytes()),
        &["at most 2 tokens", "found one of 3", "token_embedding.weight"],
    );
    broken("config.json", None, &["config.json", "fetch it too"]);
    broken("config.json", Some(b"{"), &["config.json"]);
    broken("config.json", Some(br#"{"model_type":"dinov2"}"#), &["expected a model_type of siglip, found dinov2"]);
    let said = br#"{"model_type":"siglip","text_config":{"vocab_size":1}}"#;
    broken("config.json", Some(said), &["at most 1 tokens", "its configuration"]);
    let steers = br#"{"model_type":"\u001b[2Jgone"}"#;
    broken("config.json", Some(steers), &["found ?[2Jgone"]);
    // Several at once are all told.
    fs::write(root.join("tokenizer.json"), "{}").expect("writes");
    broken("config.json", Some(b"{"), &["tokenizer.json", "config.json"]);
}

#[test]
fn a_published_model_needs_what_its_kind_needs() {
    let dir = tempfile::tempdir().expect("a folder");
    let weights = |name: &str| dir.path().join("weights").join(name);
    let put = |model: &str, file: &str, content: &[u8]| {
        fs::create_dir_all(weights(model)).expect("makes");
        fs::write(weights(model).join(file), content).expect("writes");
    };
    put("dinov2_small", "dinov2_vits14_pretrain.pth", &sample("flat.bin"));
    ends(dir.path(), &["weights", "check", "dinov2_small"], 0, &["none is needed", "1 file", "fingerprint"]);
    // open_clip's configuration and transformers' weights are of two layouts.
    put("openclip_vit_b_32", "open_clip_config.json", br#"{"model_cfg":{"text_cfg":{}}}"#);
    put("openclip_vit_b_32", "tokenizer.json", words(9).as_bytes());
    put("openclip_vit_b_32", "model.safetensors", &safetensors(&["vision_model.a"]));
    ends(dir.path(), &["weights", "check", "openclip_vit_b_32"], 2, &["one layout", "open_clip_model.safetensors"]);
    put("openclip_vit_b_32", "model.safetensors", &safetensors(&["visual.a"]));
    ends(dir.path(), &["weights", "check", "openclip_vit_b_32"], 0, &["9 tokens, of 49408"]);
    put("mobilevlm_1_7b", "config.json", b"{}");
    put("mobilevlm_1_7b", "tokenizer.json", words(2).as_bytes());
    put("mobilevlm_1_7b", "model.safetensors", &safetensors(&["model.embed_tokens.weight"]));
    ends(
        dir.path(),
        &["weights", "check", "mobilevlm_1_7b"],
        2,
        &["vision tower", "huggingface.co/mtgv/MobileVLM-1.7B"],
    );
    // Of all that are there, those that are right are told, too.
    ends(dir.path(), &["weights", "check"], 2, &["dinov2_small", "vision tower"]);
    fs::create_dir(weights("siglip_large_patch16_384")).expect("makes");
    let says = ["laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "Gemma's terms", "not all of it is here", "by hand"];
    ends(dir.path(), &["weights", "list"], 0, &says);
    let says = [
        "fetched",
        "https://huggingface.co/google/paligemma-3b-mix-224",
        "weights/paligemma_3b_224/",
        "tokenizer.json",
    ];
    ends(dir.path(), &["weights", "get", "paligemma_3b_224"], 2, &says);
}

#[test]
fn interrupted_it_keeps_what_has_come_and_goes_on_there() {
    let dir = tempfile::tempdir().expect("a folder");
    let get = |url: &str| fleet(dir.path(), &["data", "get", "cifar100", "--from", url]);
    let head = "200 OK\r\nContent-Length: 168513733\r\nETag: \"one\"";
    let (url, _told) = serve(head, vec![7; 100_000], Duration::from_secs(60));
    let mut child = Running(get(&url).stderr(Stdio::piped()).spawn().expect("runs"));
    let partial = dir.path().join("data/cifar-100-binary.tar.gz.partial");
    wait_until("the beginning", || fs::metadata(&partial).is_ok_and(|m| m.len() == 100_000));
    let pid = rustix::process::Pid::from_child(&child.0);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("signals");
    let status = child.0.wait().expect("ends");
    assert_eq!(status.code(), Some(130));
    assert_eq!(fs::metadata(&partial).expect("kept").len(), 100_000);
    let (url, told) = serve("404 Not Found\r\nContent-Length: 0", Vec::new(), Duration::ZERO);
    ended(&get(&url).output().expect("runs"), 1, &["404", "--from"]);
    let range = told.recv().expect("a request").expect("a range");
    assert!(range.ends_with("bytes=100000-"), "{range}");
    assert_eq!(fs::metadata(&partial).expect("still kept").len(), 100_000);
}
