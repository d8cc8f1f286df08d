//! What models that answer in words have said: a table for spreadsheets.

use fleet_common::record::{Answer, Record};

/// The answers that a record keeps, the most frequent first; none where its model does not answer in words.
pub(crate) fn answers(record: &Record) -> Vec<&Answer> {
    let mut answers: Vec<&Answer> = record.training.frozen.iter().flat_map(|f| &f.answers).collect();
    answers.sort_by(|a, b| b.times.cmp(&a.times).then_with(|| a.text.cmp(&b.text)));
    answers
}

/// Images about which a record's model said what the record does not keep.
pub(super) fn not_kept(record: &Record) -> u64 {
    record.training.frozen.as_ref().map_or(0, |f| f.other_answers)
}

const HEAD: [&str; 13] = [
    "trial",
    "hardware",
    "dataset",
    "backbone",
    "method",
    "seed",
    "repeat",
    "answer",
    "class",
    "class_name",
    "times",
    "right",
    "images_not_kept",
];

/// One row per record and different answer, with a head.
///
/// # Errors
/// The memory for it could not be had.
pub fn answers_csv(records: &[Record]) -> Result<Vec<u8>, csv::Error> {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    writer.write_record(HEAD)?;
    for record in records {
        let settings = &record.settings;
        for answer in answers(record) {
            writer.write_record([
                record.trial.to_string(),
                record.machine.hardware.to_string(),
                settings.dataset.name.clone(),
                settings.backbone.name().to_owned(),
                settings.method.method().name().to_owned(),
                settings.seed.to_string(),
                record.trial.repeat.to_string(),
                answer.text.clone(),
                answer.class.map(|class| class.to_string()).unwrap_or_default(),
                answer.class_name.clone().unwrap_or_default(),
                answer.times.to_string(),
                answer.right.to_string(),
                not_kept(record).to_string(),
            ])?;
        }
    }
    writer.into_inner().map_err(|e| e.into_error().into())
}
