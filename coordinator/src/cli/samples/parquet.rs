//! Rows as Parquet, a row group at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use fleet_common::canonical;
use fleet_common::telemetry::Series;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;

use super::rows::{Missing, Row, unit};
use super::sink::{Out, Sink, cannot};
use crate::cli::Failure;

/// Rows of a row group: what is held in memory, about 10 MB.
const GROUP: usize = 1 << 17;

const SCHEMA: &str = "message samples {
    required binary trial (STRING);
    required binary cell (STRING);
    required int32 attempt (INTEGER(32, false));
    required int64 number (INTEGER(64, false));
    required int64 monotonic_ns (INTEGER(64, false));
    required int64 time (TIMESTAMP(MICROS, true));
    required binary series (STRING);
    required int32 channel (INTEGER(16, false));
    required double value;
    required int64 raw;
}";

/// Columns whose values seldom come again but differ little from those before.
const STEADY: [&str; 3] = ["number", "monotonic_ns", "time"];

impl From<ParquetError> for Failure {
    fn from(error: ParquetError) -> Self {
        cannot(error)
    }
}

pub(super) struct Parquet {
    writer: SerializedFileWriter<Out>,
    group: Group,
    /// Names of series, whose bytes rows share.
    names: BTreeMap<&'static str, ByteArray>,
}

/// The columns of the row group that is being gathered.
#[derive(Default)]
struct Group {
    trial: Vec<ByteArray>,
    cell: Vec<ByteArray>,
    attempt: Vec<i32>,
    number: Vec<i64>,
    monotonic_ns: Vec<i64>,
    time: Vec<i64>,
    series: Vec<ByteArray>,
    channel: Vec<i32>,
    value: Vec<f64>,
    raw: Vec<i64>,
}

impl Parquet {
    pub(super) fn begin(out: Out, campaign: &str) -> Result<Self, Failure> {
        let mut properties = WriterProperties::builder()
            .set_created_by(concat!("NetScore Fleet ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_key_value_metadata(Some(vec![
                KeyValue::new("netscore.campaign".to_owned(), campaign.to_owned()),
                KeyValue::new("netscore.units".to_owned(), units()),
            ]));
        for column in STEADY.map(ColumnPath::from) {
            properties = properties
                .set_column_dictionary_enabled(column.clone(), false)
                .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED);
        }
        let schema = Arc::new(parse_message_type(SCHEMA)?);
        let writer = SerializedFileWriter::new(out, schema, Arc::new(properties.build()))?;
        Ok(Self { writer, group: Group::default(), names: BTreeMap::new() })
    }

    fn write_group(&mut self) -> Result<(), Failure> {
        let group = std::mem::take(&mut self.group);
        if group.raw.is_empty() {
            return Ok(());
        }
        let mut to = self.writer.next_row_group()?;
        // In the schema's order.
        column::<ByteArrayType>(&mut to, &group.trial)?;
        column::<ByteArrayType>(&mut to, &group.cell)?;
        column::<Int32Type>(&mut to, &group.attempt)?;
        column::<Int64Type>(&mut to, &group.number)?;
        column::<Int64Type>(&mut to, &group.monotonic_ns)?;
        column::<Int64Type>(&mut to, &group.time)?;
        column::<ByteArrayType>(&mut to, &group.series)?;
        column::<Int32Type>(&mut to, &group.channel)?;
        column::<DoubleType>(&mut to, &group.value)?;
        column::<Int64Type>(&mut to, &group.raw)?;
        to.close()?;
        Ok(())
    }
}

fn column<T: DataType>(group: &mut SerializedRowGroupWriter<'_, Out>, values: &[T::T]) -> Result<(), ParquetError> {
    let missing = || ParquetError::General("the schema has fewer columns than are written".to_owned());
    let mut column = group.next_column()?.ok_or_else(missing)?;
    column.typed::<T>().write_batch(values, None, None)?;
    column.close()
}

/// The base unit of every series, as JSON by name.
fn units() -> String {
    let units: BTreeMap<&str, &str> = Series::ALL.iter().map(|s| (s.name(), unit(s.unit().0))).collect();
    canonical::json(&units)
}

/// A text that is mostly the one before it, whose bytes it then shares.
fn text(column: &[ByteArray], text: &str) -> ByteArray {
    column.last().filter(|last| last.data() == text.as_bytes()).cloned().unwrap_or_else(|| text.into())
}

impl Sink for Parquet {
    fn row(&mut self, row: &Row<'_>) -> Result<(), Failure> {
        let group = &mut self.group;
        group.trial.push(text(&group.trial, row.trial));
        group.cell.push(text(&group.cell, row.cell));
        // Unsigned numbers are stored as the signed ones with the same bits.
        group.attempt.push(row.attempt as i32);
        group.number.push(row.number as i64);
        group.monotonic_ns.push(row.monotonic_ns as i64);
        group.time.push(row.unix_us);
        group.series.push(self.names.entry(row.series).or_insert_with(|| row.series.into()).clone());
        group.channel.push(i32::from(row.channel));
        group.value.push(row.value);
        group.raw.push(row.raw);
        if group.raw.len() >= GROUP { self.write_group() } else { Ok(()) }
    }

    fn is_closed(&self) -> bool {
        self.writer.inner().is_closed()
    }

    fn finish(mut self, missing: &Missing) -> Result<(), Failure> {
        self.write_group()?;
        let lists = [("gaps", canonical::json(&missing.gaps)), ("removed", canonical::json(&missing.removed))];
        for (name, list) in lists {
            self.writer.append_key_value_metadata(KeyValue::new(format!("netscore.{name}"), list));
        }
        self.writer.into_inner()?.finish()
    }
}
