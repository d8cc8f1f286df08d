//! A plain table of text: columns as wide as they need to be, two spaces apart.

/// A cell: words stand at the left of their column, numbers at the right.
pub(super) enum Cell {
    Words(String),
    Number(String),
}

impl Cell {
    fn text(&self) -> &str {
        match self {
            Self::Words(text) | Self::Number(text) => text,
        }
    }
}

/// The rows, each a line.
pub(super) fn grid(rows: &[Vec<Cell>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|r| r.get(column)).map(|c| c.text().chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| match cell {
            Cell::Words(text) => format!("{text:<width$}"),
            Cell::Number(text) => format!("{text:>width$}"),
        });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}
