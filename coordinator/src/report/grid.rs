//! A plain table of text for a terminal.

use comfy_table::{Cell, CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};

/// How a column's cells stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows under a head, in lines of at most `width` characters where there is a width.
pub(crate) fn grid(head: &[(&str, Align)], rows: &[Vec<String>], width: Option<u16>) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('-').junction('-')));
    let aligned = |text: &str, align: Align| {
        // A name comes from another machine: it must not steer this terminal.
        Cell::new(text.replace(char::is_control, "?")).set_alignment(match align {
            Align::Left => CellAlignment::Left,
            Align::Right => CellAlignment::Right,
        })
    };
    table.set_header(head.iter().map(|(text, align)| aligned(text, *align)));
    for row in rows {
        table.add_row(row.iter().zip(head).map(|(text, (_, align))| aligned(text, *align)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 1));
    }
    let free = lines(&table);
    match width {
        Some(width) if free.lines().any(|l| l.chars().count() > usize::from(width)) => {
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_width(width);
            lines(&table)
        }
        _ => free,
    }
}

fn lines(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}
