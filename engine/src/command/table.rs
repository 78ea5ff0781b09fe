//! Columns as wide as what is in them.

use std::fmt::Write as _;

/// Where a column's text stands.
#[derive(Clone, Copy)]
pub(super) enum Align {
    Left,
    Right,
}

/// Lines of `rows` under `head`, each column as wide as its widest cell; the last one is not padded.
pub(super) fn lines<const N: usize>(head: [(&str, Align); N], rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0).max(head[column].0.chars().count())
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: [&str; N]| {
        let mut line = String::new();
        for (column, cell) in cells.into_iter().enumerate() {
            let width = widths[column];
            // Writing to a String cannot fail.
            let _ = match head[column].1 {
                Align::Left => write!(line, "{cell:<width$} "),
                Align::Right => write!(line, "{cell:>width$} "),
            };
        }
        line.trim_end().to_owned()
    };
    let titles = line(head.map(|(title, _)| title));
    std::iter::once(titles).chain(rows.iter().map(|row| line(row.each_ref().map(String::as_str)))).collect()
}
