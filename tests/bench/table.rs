//! Tables that people read in a terminal and paste where Markdown is read.

use std::fmt;

/// The first columns hold words and stand left, the others hold figures and stand right.
pub(crate) struct Table<const COLUMNS: usize> {
    words: usize,
    rows: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    pub(crate) fn new(words: usize, head: [&str; COLUMNS]) -> Self {
        Self {
            words,
            rows: vec![head.map(str::to_owned)],
        }
    }

    pub(crate) fn row(&mut self, row: [String; COLUMNS]) {
        self.rows.push(row);
    }
}

impl<const COLUMNS: usize> fmt::Display for Table<COLUMNS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            // A ruler has three characters at least.
            cells.max().unwrap_or_default().max(3)
        };
        let widths: [usize; COLUMNS] = std::array::from_fn(width);
        for (index, row) in self.rows.iter().enumerate() {
            f.write_str("|")?;
            for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
                if column < self.words {
                    write!(f, " {cell:<width$} |")?;
                } else {
                    write!(f, " {cell:>width$} |")?;
                }
            }
            writeln!(f)?;
            if index == 0 {
                self.ruler(f, widths)?;
            }
        }
        Ok(())
    }
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    fn ruler(&self, f: &mut fmt::Formatter<'_>, widths: [usize; COLUMNS]) -> fmt::Result {
        f.write_str("|")?;
        for (column, width) in widths.into_iter().enumerate() {
            let width = width + 2;
            if column < self.words {
                write!(f, "{:-<width$}|", ":")?;
            } else {
                write!(f, "{:->width$}|", ":")?;
            }
        }
        writeln!(f)
    }
}
