//! Log lines on standard error: for people, or one JSON object per line for programs.

use std::fmt::Display;
use std::io::IsTerminal as _;

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Words, for people.
    #[default]
    Text,
    /// One object per line: timestamp, level, target, message, the line's fields, and under "span" what it belongs to.
    Json,
}

/// The option for it.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// Log for people, or one JSON object per line (what is logged of a trial has its cell, repeat, attempt, agent and
    /// slot under "span")
    #[arg(long, env = "FLEET_LOG_FORMAT", value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: Format,
}

/// Logs from here on, as much as FLEET_LOG says, or else `default`.
pub fn start(format: Format, default: &str) {
    let filter = EnvFilter::try_from_env("FLEET_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    subscriber(format, filter, std::io::stderr).init();
}

/// Says why the program ends.
pub fn last_words(format: Format, error: &str) {
    match format {
        Format::Text => eprintln!("error: {error}"),
        Format::Json => tracing::error!("{error}"),
    }
}

/// What is logged in this span belongs to a trial: in both programs under the same names.
pub fn trial_span(
    cell: impl Display,
    repeat: u32,
    attempt: u32,
    agent: impl Display,
    slot: impl Display,
) -> tracing::Span {
    // Of the highest level: whatever is logged of a trial, down to errors alone, is logged in it.
    tracing::error_span!(target: "trial", "trial", %cell, repeat, attempt, %agent, %slot)
}

/// What writes such lines to `writer`.
pub fn subscriber<W>(format: Format, filter: EnvFilter, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // A filter that names other targets alone would leave lines without their trial.
    let spans = "trial=error".parse().expect("a directive");
    let builder = tracing_subscriber::fmt().with_env_filter(filter.add_directive(spans)).with_writer(writer);
    match format {
        Format::Text => Box::new(builder.with_ansi(std::io::stderr().is_terminal()).finish()),
        Format::Json => Box::new(builder.json().flatten_event(true).with_span_list(false).finish()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, filter: &str) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(format, EnvFilter::new(filter), move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            let span = trial_span("c0", 1, 2, "a", "cpu");
            span.in_scope(|| {
                tracing::info!(error = %"line 1\nline \"2\"", "it said {}", "so");
                tracing::error!(target: "elsewhere", "it broke");
            });
            tracing::debug!("not this");
            tracing::warn!("outside");
        });
        String::from_utf8(lines.0.lock().expect("no panic").clone()).expect("text")
    }

    #[test]
    fn each_json_line_is_an_object_that_says_what_it_belongs_to() {
        let text = logged(Format::Json, "info");
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
        let [first, broke, second] = &lines[..] else { panic!("{text}") };
        assert_eq!((&first["level"], &first["message"]), (&json!("INFO"), &json!("it said so")));
        assert_eq!(first["error"], json!("line 1\nline \"2\""), "a line break does not break the line");
        assert_eq!(
            first["span"],
            json!({"name": "trial", "cell": "c0", "repeat": 1, "attempt": 2, "agent": "a", "slot": "cpu"})
        );
        assert_eq!(broke["span"], first["span"]);
        assert!(first["timestamp"].as_str().is_some_and(|t| t.ends_with('Z')), "{first}");
        assert_eq!((&second["message"], second.get("span")), (&json!("outside"), None));
    }

    #[test]
    fn lines_keep_their_trial_whatever_the_filter_leaves() {
        for filter in ["error", "elsewhere=debug"] {
            let text = logged(Format::Json, filter);
            let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
            let [broke] = &lines[..] else { panic!("{filter}: {text}") };
            assert_eq!((&broke["message"], &broke["span"]["cell"]), (&json!("it broke"), &json!("c0")), "{filter}");
        }
    }

    #[test]
    fn people_read_the_same_in_words() {
        let text = logged(Format::Text, "info");
        assert!(
            text.contains("trial{cell=c0 repeat=1 attempt=2 agent=a slot=cpu}") && text.contains("it said so"),
            "{text}"
        );
    }
}
