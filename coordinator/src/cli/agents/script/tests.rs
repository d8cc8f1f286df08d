//! Templates and what becomes of them. That whole files are right, `tests/deploy` holds to.

use std::process::Command;

use clap::Parser;
use proptest::prelude::*;

use super::format::Format;
use super::template::{Fields, Line, Value, fill};
use super::*;

#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    script: Script,
}

fn read(arguments: &str) -> Script {
    Cli::try_parse_from(["script"].into_iter().chain(arguments.split(' '))).expect("parses").script
}

fn script(arguments: &str) -> String {
    read(arguments).text()
}

/// Options with which every field has a value.
const EVERYTHING: [&str; 5] = [
    "systemd --coordinator http://c:1 --devices cpu --label l --tag a=b --leave-when-idle 1h --join-token-file /t",
    "k8s --coordinator http://c:1 --devices cpu --label l --tag a=b",
    "k8s --coordinator http://c:1 --devices cpu --label l --tag a=b --agents 3 --time 2h --leave-when-idle 1h",
    "slurm --coordinator http://c:1 --devices cpu --label l --tag a=b --partition p --account a --state /s --join-token-file /t",
    "compose --coordinator http://c:1 --devices cpu --label l --tag a=b --gpus 1 --leave-when-idle 1h --join-token-file /t",
];

#[test]
fn every_mark_is_understood_and_goes() {
    for options in EVERYTHING {
        let ((template, format), mut open) = (read(options).template(), false);
        for line in template.lines() {
            match Line::read(line) {
                Line::OnlyWith(_) | Line::OnlyWithout(_) => assert!(!std::mem::replace(&mut open, true), "{line}"),
                Line::End => assert!(std::mem::take(&mut open), "an end without a beginning"),
                Line::Field(_) => {}
                // A mark with a slip in it would stay in what people get.
                Line::Text => {
                    assert!(!["# only ", "# field", "# end"].iter().any(|m| line.trim().starts_with(m)), "{line}");
                }
            }
        }
        assert!(!open, "a block without an end");
        for text in [fill(template, format, &Fields::default()), script(options)] {
            let marks: Vec<_> = text.lines().filter(|l| Line::read(l) != Line::Text || l.contains("#~")).collect();
            assert!(marks.is_empty() && !text.contains("fleet agents script"), "{marks:?}");
        }
    }
}

#[test]
fn every_field_of_every_template_has_a_value() {
    for options in EVERYTHING {
        let script = read(options);
        for line in script.template().0.lines() {
            match Line::read(line) {
                Line::Field(name) | Line::OnlyWith(name) if name != "example" => {
                    assert!(script.fields().has(name), "{options}: nothing is called {name}");
                }
                _ => {}
            }
        }
    }
}

#[test]
fn what_is_not_asked_for_is_not_there() {
    let text = script("slurm --coordinator http://c:1");
    for absent in
        ["--partition", "--account", "--exclusive", "FLEET_DEVICES", "FLEET_LABEL", "FLEET_TAGS", "FLEET_JOIN"]
    {
        assert!(!text.contains(absent), "{absent} in {text}");
    }
    assert!(text.contains("#SBATCH --gres=gpu:1\n") && text.contains("=$scratch/state\n"), "{text}");
    let cpus = script("slurm --coordinator http://c:1 --gpus 0 --agents 1 --at-once 1");
    assert!(!cpus.contains("--gres") && cpus.contains("#SBATCH --exclusive\n") && cpus.contains("=0-0%1\n"), "{cpus}");
    assert!(!script("compose --coordinator http://c:1").contains("nvidia"));
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for wrong in [
        "systemd",
        "systemd --coordinator c:1",
        "systemd --coordinator http://c:1 --data data",
        "k8s --coordinator http://c:1 --time 4h",
        "k8s --coordinator http://c:1 --gpus 0",
        "slurm --coordinator http://c:1 --time 4",
        "slurm --coordinator http://c:1 --agents 0",
        "slurm --coordinator http://c:1 --partition a;b",
        "compose --coordinator http://c:1 --image a$b",
    ] {
        let arguments = ["script"].into_iter().chain(wrong.split(' '));
        assert!(Cli::try_parse_from(arguments).is_err(), "{wrong}");
    }
}

/// What systemd makes of a directive's words, by the rules of systemd.syntax(7) and systemd.unit(5).
fn systemd_reads(value: &str) -> String {
    let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).expect("one quoted word");
    let mut text = String::new();
    let mut rest = inner.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => text.push(rest.next().filter(|c| ['\\', '"'].contains(c)).expect("an escape that we write")),
            '%' => assert_eq!(rest.next().inspect(|c| text.push(*c)), Some('%'), "a specifier"),
            '"' => panic!("the word ends too early: {value}"),
            c => text.push(c),
        }
    }
    text
}

fn yaml_reads(line: &str) -> String {
    let map: serde_json::Value = serde_saphyr::from_str(line).expect("YAML");
    map["value"].as_str().expect("text").to_owned()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the text, each format reads it back as it was.
    #[test]
    fn any_text_arrives_as_it_was_meant(text in r#"/([ -~äß€"'\\$%#:&*!{}\[\]]){0,24}"#) {
        let value = Value::Text(text.clone());
        let unit = Format::Systemd.set("Environment=\"FLEET_DATA=/old\"", &value);
        prop_assert_eq!(systemd_reads(unit.strip_prefix("Environment=").expect("kept")), format!("FLEET_DATA={text}"));
        let program = Format::Systemd.set("ExecStart=\"/old\" run", &value);
        let program = program.strip_prefix("ExecStart=").and_then(|p| p.strip_suffix(" run")).expect("kept");
        prop_assert_eq!(systemd_reads(program), text.clone());
        prop_assert_eq!(yaml_reads(&Format::Compose.set("value: \"/old\"", &value)).replace("$$", "$"), text.clone());
        prop_assert_eq!(yaml_reads(&Format::Kubernetes.set("value: \"/old\"", &value)), text.replace('$', "$$"));
        let path = Format::Kubernetes.set("    path: \"/old\"", &value);
        prop_assert!(path.starts_with("    path: "));
        prop_assert_eq!(yaml_reads(&path.trim_start().replacen("path", "value", 1)), text.clone());
        let line = Format::Shell.set("export FLEET_DATA='/old'", &value);
        let bash = Command::new("bash").args(["-c", &format!("{line}; printf %s \"$FLEET_DATA\"")]).output().expect("bash");
        prop_assert_eq!(String::from_utf8(bash.stdout).expect("text"), text);
    }
}
