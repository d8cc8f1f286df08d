//! The shape of what the Parquet format keeps in Thrift's compact protocol, and a walk over it that is done in as many
//! steps as there are bytes.
//!
//! The library that reads the format believes a list's own word for its length and a page's for its size and values, and a list of booleans that it passes over
//! has no bytes: some hundred bytes keep it busy for minutes. Whatever it reads is walked over before, field by field as
//! it does. A known field of another type than the format's is refused: the library would not look, and would read
//! something else than was walked over.
//!
//! Sources: parquet.thrift of parquet-format 2.12, thrift-compact-protocol.md.

use std::io::{self, BufRead, ErrorKind, Read};

use super::table::MOST_ROWS;

/// Values in a page's header, at most: the format knows 22.
pub(crate) const MOST_IN_HEADER: u64 = 1000;
/// Bytes of a page, unpacked: the library makes room for what a header says before it looks at the page. Writers end a page
/// after 1 MiB, but some look only at every 1,024th image.
const MOST_PAGE: i64 = 512 << 20;
/// Structs within structs.
const DEEPEST: u32 = 32;

/// What a field or an element is.
pub(crate) enum Of {
    Bool,
    Byte,
    I16,
    I32,
    /// An `I32` from 0 to this.
    AtMost(i64),
    I64,
    Double,
    Binary,
    List(&'static Of),
    Struct(&'static [Field]),
}

type Field = (i16, Of);

use Of::{AtMost, Binary, Bool, Byte, Double, I16, I32, I64, List, Struct};

/// `PageHeader`, which stands before each page.
pub(crate) const PAGE_HEADER: Of = Struct(&[
    (1, I32),
    (2, AtMost(MOST_PAGE)),
    (3, AtMost(MOST_PAGE)),
    (4, I32),
    (5, Struct(&[(1, COUNT), (2, I32), (3, I32), (4, I32), (5, STATISTICS)])),
    (6, Struct(&[])),
    (7, Struct(&[(1, COUNT), (2, I32), (3, Bool)])),
    (8, Struct(&[(1, COUNT), (2, COUNT), (3, COUNT), (4, I32), (5, I32), (6, I32), (7, Bool), (8, STATISTICS)])),
]);

/// Values of a page: of the columns that are read, none has more than one in a row.
const COUNT: Of = AtMost(MOST_ROWS);

/// `FileMetaData`, at the end of a file.
pub(crate) const FILE: Of = Struct(&[
    (1, I32),
    (2, List(&SCHEMA_ELEMENT)),
    (3, I64),
    (4, List(&ROW_GROUP)),
    (5, List(&KEY_VALUE)),
    (6, Binary),
    (7, List(&Struct(&[(1, Struct(&[])), (2, Struct(&[])), (3, Struct(&[]))]))),
]);

const STATISTICS: Of =
    Struct(&[(1, Binary), (2, Binary), (3, I64), (4, I64), (5, Binary), (6, Binary), (7, Bool), (8, Bool), (9, I64)]);
const KEY_VALUE: Of = Struct(&[(1, Binary), (2, Binary)]);
const SCHEMA_ELEMENT: Of = Struct(&[
    (1, I32),
    (2, I32),
    (3, I32),
    (4, Binary),
    (5, I32),
    (6, I32),
    (7, I32),
    (8, I32),
    (9, I32),
    (10, LOGICAL_TYPE),
]);
const LOGICAL_TYPE: Of = Struct(&[
    (1, Struct(&[])),
    (2, Struct(&[])),
    (3, Struct(&[])),
    (4, Struct(&[])),
    (5, Struct(&[(1, I32), (2, I32)])),
    (6, Struct(&[])),
    (7, TIME),
    (8, TIME),
    (10, Struct(&[(1, Byte), (2, Bool)])),
    (11, Struct(&[])),
    (12, Struct(&[])),
    (13, Struct(&[])),
    (14, Struct(&[])),
    (15, Struct(&[])),
    (16, Struct(&[(1, Byte)])),
    (17, Struct(&[(1, Binary)])),
    (18, Struct(&[(1, Binary), (2, I32)])),
    (19, Struct(&[])),
]);
const TIME: Of = Struct(&[(1, Bool), (2, Struct(&[(1, Struct(&[])), (2, Struct(&[])), (3, Struct(&[]))]))]);
const ROW_GROUP: Of = Struct(&[
    (1, List(&COLUMN_CHUNK)),
    (2, I64),
    (3, I64),
    (4, List(&Struct(&[(1, I32), (2, Bool), (3, Bool)]))),
    (5, I64),
    (6, I64),
    (7, I16),
]);
const COLUMN_CHUNK: Of = Struct(&[(1, Binary), (2, I64), (3, COLUMN_METADATA), (4, I64), (5, I32), (6, I64), (7, I32)]);
const COLUMN_METADATA: Of = Struct(&[
    (1, I32),
    (2, List(&I32)),
    (3, List(&Binary)),
    (4, I32),
    (5, I64),
    (6, I64),
    (7, I64),
    (8, List(&KEY_VALUE)),
    (9, I64),
    (10, I64),
    (11, I64),
    (12, STATISTICS),
    (13, List(&Struct(&[(1, I32), (2, I32), (3, I32)]))),
    (14, I64),
    (15, I32),
    (16, Struct(&[(1, I64), (2, List(&I64)), (3, List(&I64))])),
    (17, Struct(&[(1, BOUNDING_BOX), (2, List(&I32))])),
]);
const BOUNDING_BOX: Of =
    Struct(&[(1, Double), (2, Double), (3, Double), (4, Double), (5, Double), (6, Double), (7, Double), (8, Double)]);

impl Of {
    /// The type's number on the wire; a boolean has two, one of each value.
    fn kind(&self) -> u8 {
        match self {
            Bool => 2,
            Byte => 3,
            I16 => 4,
            I32 | AtMost(_) => 5,
            I64 => 6,
            Double => 7,
            Binary => 8,
            List(_) => 9,
            Struct(_) => 12,
        }
    }

    fn is(&self, kind: u8) -> bool {
        self.kind() == kind || matches!(self, Bool) && kind == 1
    }
}

/// Walks over one value of this shape.
///
/// # Errors
/// What is not of the shape, has more than `most` values, or ends early; what reading gives.
pub(crate) fn walk(from: &mut dyn BufRead, shape: &Of, most: u64) -> io::Result<()> {
    Walk { from, left: most }.value(shape.kind(), Some(shape), DEEPEST)
}

struct Walk<'a> {
    from: &'a mut dyn BufRead,
    /// Values that there may still be.
    left: u64,
}

impl Walk<'_> {
    /// A value of a type, of a shape where one is known. A boolean is in its field's type; within a list that is passed
    /// over, the library reads nothing for it.
    fn value(&mut self, kind: u8, shape: Option<&Of>, deep: u32) -> io::Result<()> {
        let deep = deep.checked_sub(1).ok_or_else(|| damage("has structs in structs without end"))?;
        self.left = self.left.checked_sub(1).ok_or_else(|| damage("has more values than bytes"))?;
        match kind {
            1 | 2 => Ok(()),
            3 => self.pass(1),
            4..=6 => {
                let value = zigzag(self.number()?);
                match shape {
                    Some(AtMost(most)) if !(0..=*most).contains(&value) => {
                        Err(damage(format!("has a page of {value} bytes or values; expected at most {most}")))
                    }
                    _ => Ok(()),
                }
            }
            7 => self.pass(8),
            8 => {
                let length = self.number()?;
                self.pass(length)
            }
            9 | 10 => self.list(shape, deep),
            11 => self.map(deep),
            12 => self.fields(shape, deep),
            13 => self.pass(16),
            _ => Err(damage(format!("has a value of type {kind}, which there is not"))),
        }
    }

    fn fields(&mut self, shape: Option<&Of>, deep: u32) -> io::Result<()> {
        let known: &[Field] = if let Some(Struct(fields)) = shape { fields } else { &[] };
        let mut last = 0i16;
        loop {
            let head = self.byte()?;
            let (step, kind) = (head >> 4, head & 15);
            if kind == 0 {
                return Ok(());
            }
            let id = match step {
                0 => zigzag(self.number()?),
                step => i64::from(last) + i64::from(step),
            };
            last = i16::try_from(id).map_err(|_| damage(format!("has a field with number {id}")))?;
            let of = known.iter().find(|(id, _)| *id == last).map(|(_, of)| of);
            if let Some(of) = of.filter(|of| !of.is(kind)) {
                return Err(damage(format!("has type {kind} in field {last}; expected {}", of.kind())));
            }
            self.value(kind, of, deep)?;
        }
    }

    fn list(&mut self, shape: Option<&Of>, deep: u32) -> io::Result<()> {
        let head = self.byte()?;
        // Some write an empty list so, without a type.
        if head == 0 {
            return Ok(());
        }
        let kind = head & 15;
        let length = match head >> 4 {
            15 => self.number()?,
            length => u64::from(length),
        };
        let of = if let Some(List(of)) = shape { Some(*of) } else { None };
        if let Some(of) = of.filter(|of| !of.is(kind)) {
            return Err(damage(format!("has a list of type {kind}; expected {}", of.kind())));
        }
        self.elements(length, &[(kind, of)], deep)
    }

    fn map(&mut self, deep: u32) -> io::Result<()> {
        let length = self.number()?;
        if length == 0 {
            return Ok(());
        }
        let kinds = self.byte()?;
        self.elements(length, &[(kinds >> 4, None), (kinds & 15, None)], deep)
    }

    fn elements(&mut self, length: u64, each: &[(u8, Option<&Of>)], deep: u32) -> io::Result<()> {
        if length > self.left {
            return Err(damage(format!("has a list of {length} values; expected at most {}", self.left)));
        }
        for _ in 0..length {
            for (kind, of) in each {
                self.value(*kind, *of, deep)?;
            }
        }
        Ok(())
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.from.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    /// Seven bits per byte, the lowest first.
    fn number(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(damage("has a number of more than 64 bits"))
    }

    fn pass(&mut self, bytes: u64) -> io::Result<()> {
        let passed = io::copy(&mut self.from.take(bytes), &mut io::sink())?;
        if passed < bytes { Err(damage("ends within a value")) } else { Ok(()) }
    }
}

fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

fn damage(what: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("its metadata {}", what.into()))
}
