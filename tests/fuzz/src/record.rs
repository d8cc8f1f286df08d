//! Records, as files and agents bring them.

use fleet_common::compare::{Preparation, compare};
use fleet_common::contrast::{Factor, contrast};
use fleet_common::record::{Record, Waste};
use fleet_common::record_set::{Builder, on_one_line};
use fleet_common::score::Exponents;

/// A file of records, one per line. Each is the same when it has been written again, the set is what was in the lines,
/// and whatever the records say can be compared and printed.
pub fn records(bytes: &[u8]) {
    let (mut set, mut records) = (Builder::default(), Vec::new());
    for (document, line) in bytes.split(|b| *b == b'\n').zip(1..) {
        if let Ok(record) = Record::from_json(document) {
            let written = record.to_json();
            let again = Record::from_json(&written).expect("our own record").to_json();
            assert_eq!(String::from_utf8(written), String::from_utf8(again));
        }
        let _ = Waste::from_json(document);
        if set.add(line, on_one_line(document)).is_ok() {
            records.extend(Record::from_json(document));
        }
    }
    let Some(set) = set.finish() else { return };
    assert_eq!(set.documents.len(), records.len());
    let exponents = Exponents::default();
    for preparation in [Preparation::Apart, Preparation::Counted] {
        let _ = compare(&records, &exponents, preparation);
    }
    for factor in [Factor::Hardware, Factor::Method] {
        let _ = contrast(&records, factor, &exponents, Preparation::Counted);
    }
    fleet_coordinator::report::csv(&records).expect("into memory");
}
