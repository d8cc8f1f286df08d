//! What the documents tell people to type: commands and options that exist, files that are there.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use fleet_tests::program;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("a folder")
}

/// All files of the repository below a folder, without what is built.
fn files(below: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(below).expect("a folder").flatten().map(|e| e.path());
    let ours = entries.filter(|p| !p.is_symlink() && !p.ends_with("target") && !is_hidden(p));
    ours.flat_map(|p| if p.is_dir() { files(&p) } else { vec![p] }).collect()
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'))
}

/// What a program's help says of a command.
#[derive(Clone, Default)]
struct Help {
    commands: BTreeSet<String>,
    options: BTreeSet<String>,
    variables: BTreeSet<String>,
}

/// Asks the programs for help, each command once.
#[derive(Default)]
struct Programs(RefCell<BTreeMap<Vec<String>, Help>>);

impl Programs {
    fn help(&self, command: &[String]) -> Help {
        if let Some(help) = self.0.borrow().get(command) {
            return help.clone();
        }
        let output = Command::new(program(&command[0])).args(&command[1..]).arg("--help").output().expect("runs");
        assert!(output.status.success(), "{command:?} has no help");
        let text = String::from_utf8(output.stdout).expect("text");
        let mut help = Help::default();
        let mut in_commands = false;
        for line in text.lines() {
            match line.strip_prefix("  ").filter(|l| !l.starts_with(' ')) {
                Some(entry) if in_commands => help.commands.extend(entry.split(' ').next().map(str::to_owned)),
                _ if !line.starts_with(' ') => in_commands = line == "Commands:",
                _ => {}
            }
        }
        help.options = words(&text).filter(|w| w.starts_with("--")).map(str::to_owned).collect();
        help.variables = words(&text).filter(|w| w.starts_with("FLEET_")).map(str::to_owned).collect();
        self.0.borrow_mut().insert(command.to_vec(), help.clone());
        help
    }

    /// Every variable that any command knows.
    fn variables(&self) -> BTreeSet<String> {
        let mut waiting = vec![vec!["fleet".to_owned()], vec!["fleet-agent".to_owned()]];
        let mut found = BTreeSet::new();
        while let Some(command) = waiting.pop() {
            let help = self.help(&command);
            found.extend(help.variables);
            let below = help.commands.into_iter().filter(|c| c != "help");
            waiting.extend(below.map(|c| [&command[..], &[c]].concat()));
        }
        found
    }

    /// What is wrong with a command, if it is one of ours.
    fn check(&self, text: &str) -> Option<String> {
        let (command, arguments) = ours(text)?;
        let mut path = vec![command];
        let mut arguments = arguments.into_iter().peekable();
        while let Some(next) = arguments.next_if(|a| self.help(&path).commands.contains(a)) {
            path.push(next);
        }
        let spoken = path.join(" ");
        let help = self.help(&path);
        let next = arguments.peek().cloned().unwrap_or_default();
        if !help.commands.is_empty() && next.starts_with(|c: char| c.is_ascii_lowercase()) {
            return Some(format!("{spoken} has no command {next}"));
        }
        let options = arguments.filter(|a| a.starts_with("--") && a.len() > 2);
        let unknown: Vec<String> = options
            .map(|o| o.split('=').next().unwrap_or_default().to_owned())
            .filter(|o| !["--help", "--version"].contains(&o.as_str()) && !help.options.contains(o))
            .collect();
        (!unknown.is_empty()).then(|| format!("{spoken} has no {}", unknown.join(", ")))
    }
}

/// Runs of what options and variables are made of.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_')).filter(|w| !w.is_empty())
}

/// One of our programs and what it is given, behind whatever stands in front of it.
fn ours(text: &str) -> Option<(String, Vec<String>)> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let name = |word: &str| word.rsplit('/').next().unwrap_or_default().to_owned();
    let is_ours = |word: &&str| ["fleet", "fleet-agent"].contains(&name(word).as_str()) && !word.ends_with('/');
    // Only behind words that run other commands: `cd fleet` runs nothing.
    let at = words.iter().position(is_ours)?;
    let runs_others = |word: &&str| ["sudo", "runuser", "env", "--", "exec"].contains(word);
    let in_front = &words[..at];
    let is_run = in_front.iter().all(|w| w.contains('=')) || in_front.first().is_some_and(runs_others);
    let arguments = words[at + 1..].iter().map(|w| w.trim_matches(['"', '\'']).to_owned());
    is_run.then(|| (name(words[at]), arguments.collect()))
}

/// The commands of a document: its blocks of code without a language (or with a shell's), and what it names in passing.
fn commands(markdown: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut block: Option<String> = None;
    for line in markdown.lines() {
        match (line.trim().strip_prefix("```"), &mut block) {
            (Some(""), None) | (Some("bash" | "sh" | "console"), None) => block = Some(String::new()),
            (Some(_), None) => block = Some("# another language".to_owned()),
            (Some(_), Some(code)) => {
                if !code.starts_with("# another language") {
                    found.extend(code.replace("\\\n", " ").lines().flat_map(split).map(str::to_owned));
                }
                block = None;
            }
            (None, Some(code)) => *code += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    // Spans may go over the end of a line.
    let prose: String = markdown.split("```").step_by(2).collect();
    for span in prose.split('`').skip(1).step_by(2).map(|s| s.replace('\n', " ")) {
        if ["fleet ", "fleet-agent "].iter().any(|start| span.starts_with(start)) && !span.contains('…') {
            found.extend(split(&span).map(str::to_owned));
        }
    }
    found
}

/// The commands of a line.
fn split(line: &str) -> impl Iterator<Item = &str> {
    let code = line.split(" #").next().unwrap_or_default();
    let code = if code.trim_start().starts_with('#') { "" } else { code };
    code.split(['|', ';', '>']).flat_map(|part| part.split("&&")).map(str::trim)
}

#[test]
fn what_documents_tell_people_to_type_exists() {
    let (root, programs) = (root(), Programs::default());
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for document in files(&root).iter().filter(|f| f.extension().is_some_and(|e| e == "md")) {
        let text = std::fs::read_to_string(document).expect("text");
        for command in commands(&text) {
            seen += usize::from(ours(&command).is_some());
            let place = document.strip_prefix(&root).expect("ours").display();
            wrong.extend(programs.check(&command).map(|what| format!("{place}: {what}: {command}")));
            for file in command.split_whitespace().filter(|w| w.starts_with("deploy/") || w.starts_with("tests/")) {
                let file = file.trim_end_matches("/*").trim_matches(['"', '\'']);
                if !root.join(file).exists() {
                    wrong.push(format!("{place}: {file} is not there: {command}"));
                }
            }
        }
    }
    assert!(seen > 80, "only {seen} commands were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_starts_programs_sets_variables_that_they_know() {
    let (root, known) = (root(), Programs::default().variables());
    assert!(known.contains("FLEET_COORDINATOR") && known.contains("FLEET_LEAVE_WHEN_IDLE"), "{known:?}");
    let mut seen = 0;
    for folder in ["systemd", "slurm", "kubernetes", "container"] {
        for file in files(&root.join("deploy").join(folder)) {
            let text = std::fs::read_to_string(&file).expect("text");
            for variable in words(&text).filter(|w| w.starts_with("FLEET_") && *w != "FLEET_TORCH") {
                seen += 1;
                assert!(known.contains(variable), "{}: no program knows {variable}", file.display());
            }
        }
    }
    assert!(seen > 30, "only {seen} variables were found");
}

#[test]
fn a_slip_would_be_found() {
    let programs = Programs::default();
    let wrong = |text: &str| programs.check(text);
    assert_eq!(wrong("sudo fleet serve --state x --listen 0.0.0.0:7070 --insecure"), None);
    assert_eq!(wrong("FLEET_LOG=debug fleet-agent run --label \"250 W\""), None);
    assert_eq!(wrong("cd fleet --nonsense"), None, "not ours");
    assert!(wrong("fleet serve --insecur").is_some_and(|w| w.contains("--insecur")));
    assert!(wrong("runuser -u x -- fleet data gett cifar100").is_some_and(|w| w.contains("gett")));
    assert!(wrong("target/release/fleet agents script sytemd").is_some_and(|w| w.contains("sytemd")));
    assert_eq!(
        commands("text\n```\nfleet a \\\n  --b | tee x # no\n```\nand `fleet\nc`")[..2],
        ["fleet a    --b", "tee x"]
    );
}
