//! Rows as CSV, RFC 4180.

use super::rows::{Missing, Row};
use super::sink::{Out, Sink, cannot};
use crate::cli::Failure;

const HEAD: [&str; 10] =
    ["trial", "cell", "attempt", "number", "monotonic_ns", "unix_seconds", "series", "channel", "value", "raw"];

pub(super) struct Csv(csv::Writer<Out>);

impl Csv {
    pub(super) fn begin(out: Out) -> Result<Self, Failure> {
        let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(out);
        writer.write_record(HEAD).map_err(cannot)?;
        Ok(Self(writer))
    }
}

impl Sink for Csv {
    fn row(&mut self, row: &Row<'_>) -> Result<(), Failure> {
        let (seconds, us) = (row.unix_us.div_euclid(1_000_000), row.unix_us.rem_euclid(1_000_000));
        let texts = [
            row.attempt.to_string(),
            row.number.to_string(),
            row.monotonic_ns.to_string(),
            format!("{seconds}.{us:06}"),
            row.channel.to_string(),
            row.value.to_string(),
            row.raw.to_string(),
        ];
        let [attempt, number, monotonic, time, channel, value, raw] = texts.each_ref().map(String::as_str);
        let line = [row.trial, row.cell, attempt, number, monotonic, time, row.series, channel, value, raw];
        self.0.write_record(line).map_err(cannot)
    }

    fn is_closed(&self) -> bool {
        self.0.get_ref().is_closed()
    }

    fn finish(self, _missing: &Missing) -> Result<(), Failure> {
        self.0.into_inner().map_err(|e| cannot(e.error()))?.finish()
    }
}
