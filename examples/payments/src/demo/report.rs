//! What the demo says, for people at a terminal or in a log.

use std::{
    env,
    io::{self, IsTerminal, Write},
};

use crate::failure::Failure;

/// No line is longer: half a wide screen holds it, and a README.
const WIDTH: usize = 100;

/// Where the text of a scene begins.
const INDENT: usize = 15;

/// Says things on stdout.
#[derive(Clone, Copy, Debug)]
pub(super) struct Report {
    colour: bool,
}

/// How a text looks on a terminal.
#[derive(Clone, Copy, Debug)]
enum Look {
    Heading,
    Kept,
    Broken,
}

/// A line of the summary.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) scene: &'static str,
    pub(super) promise: &'static str,
    /// Requests that clients sent.
    pub(super) sent: usize,
    /// How often the provider was called.
    pub(super) calls: u64,
    /// Charges that were promised.
    pub(super) expected: usize,
    /// Charges in the provider's ledger.
    pub(super) charged: usize,
    pub(super) kept: bool,
}

impl Report {
    /// In colour if stdout is a terminal and the environment does not refuse it (<https://no-color.org>).
    pub(super) fn to_stdout() -> Self {
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            colour: io::stdout().is_terminal() && !refused,
        }
    }

    /// Says a paragraph, after an empty line.
    pub(super) fn paragraph(self, text: &str) -> Result<(), Failure> {
        write(&format!("\n{}", wrapped("", 0, text)))
    }

    /// Says the number, the name and the promise of a scene.
    pub(super) fn heading(self, number: usize, scene: &str, promise: &str) -> Result<(), Failure> {
        let title = self.painted(Look::Heading, &format!("{number}. {scene}"));
        write(&format!(
            "\n{title}\n{}",
            wrapped("   promised", INDENT, promise)
        ))
    }

    /// Says what somebody did; with an empty `who`, the one before did it too.
    pub(super) fn told(self, who: &str, text: &str) -> Result<(), Failure> {
        write(&wrapped(&format!("   {who}"), INDENT, text))
    }

    /// Says whether the promise was kept, and else what broke.
    pub(super) fn verdict(self, broken: &[String]) -> Result<(), Failure> {
        if broken.is_empty() {
            return write(&format!("   {}\n", self.painted(Look::Kept, "kept")));
        }
        for text in broken {
            let lines = wrapped("   BROKEN", INDENT, text);
            write(&lines.replacen("BROKEN", &self.painted(Look::Broken, "BROKEN"), 1))?;
        }
        Ok(())
    }

    /// Says how every scene ended.
    pub(super) fn summary(self, rows: &[Row]) -> Result<(), Failure> {
        write(&format!("\n{}", self.table(rows)))
    }

    fn table(self, rows: &[Row]) -> String {
        let width = |cells: fn(&Row) -> &str, least: usize| {
            let longest = rows.iter().map(|row| cells(row).chars().count()).max();
            longest.unwrap_or_default().max(least)
        };
        let scene = width(|row| row.scene, "scene".len());
        let promise = width(|row| row.promise, "promise".len());

        let mut table = format!(
            "{:scene$}  {:promise$}  requests  provider   charges\n\
             {:scene$}  {:promise$}      sent     calls  made/due  result\n",
            "", "", "scene", "promise"
        );
        table.push_str(&format!("{:-<1$}\n", "", scene + promise + 40));
        for row in rows {
            let result = match row.kept {
                true => self.painted(Look::Kept, "kept"),
                false => self.painted(Look::Broken, "BROKEN"),
            };
            let charges = format!("{}/{}", row.charged, row.expected);
            table.push_str(&format!(
                "{:scene$}  {:promise$}  {:>8}  {:>8}  {charges:>8}  {result}\n",
                row.scene, row.promise, row.sent, row.calls
            ));
        }
        table
    }

    fn painted(self, look: Look, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match look {
            Look::Heading => 1,
            Look::Kept => 32,
            Look::Broken => 31,
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

fn write(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| Failure::because("failed to write to stdout", error))
}

/// The words of the text in lines that begin at `indent`, the first one with the label.
fn wrapped(label: &str, indent: usize, text: &str) -> String {
    let mut lines = format!("{label:indent$}");
    let mut column = lines.chars().count();
    let mut begins = true;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if !begins && column + 1 + length > WIDTH {
            lines.push_str(&format!("\n{:indent$}", ""));
            (column, begins) = (indent, true);
        }
        if !begins {
            lines.push(' ');
            column += 1;
        }
        lines.push_str(word);
        column += length;
        begins = false;
    }
    lines.push('\n');
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::scenes::SCENES;

    const PLAIN: Report = Report { colour: false };
    const COLOURED: Report = Report { colour: true };

    fn rows() -> Vec<Row> {
        SCENES
            .iter()
            .map(|scene| Row {
                scene: scene.name,
                promise: scene.promise,
                sent: 12_345,
                calls: 1234,
                expected: scene.charges,
                charged: 2,
                kept: false,
            })
            .collect()
    }

    #[test]
    fn the_table_of_all_scenes_is_aligned_and_fits() {
        let table = PLAIN.table(&rows());
        let lines: Vec<&str> = table.lines().collect();

        assert_eq!(lines.len(), 3 + SCENES.len());
        let result = lines[1].find("result").unwrap();
        for line in &lines[3..] {
            assert!(line[result..].starts_with("BROKEN"), "{line}");
            assert!(line[..result].contains("    1234  "), "{line}");
            assert!(line[..result].trim_end().contains(" 2/"), "{line}");
        }
        assert!(
            lines.iter().all(|line| line.chars().count() <= WIDTH),
            "{table}"
        );
    }

    #[test]
    fn colour_changes_nothing_but_the_colour() {
        let coloured = COLOURED.table(&rows());
        let stripped = coloured.replace("\u{1b}[31m", "").replace("\u{1b}[0m", "");

        assert_ne!(coloured, stripped);
        assert_eq!(stripped, PLAIN.table(&rows()));
    }

    #[test]
    fn long_texts_go_on_under_their_beginning() {
        let text = "word ".repeat(40);
        let lines = wrapped("   client", INDENT, &text);

        assert!(lines.starts_with("   client      word word"));
        assert!(lines.lines().count() > 2);
        for line in lines.lines().skip(1) {
            assert!(line.starts_with("               word"), "{line:?}");
        }
        assert!(
            lines
                .lines()
                .all(|line| line.len() <= WIDTH && !line.ends_with(' '))
        );
        assert_eq!(
            lines
                .split_whitespace()
                .filter(|word| *word == "word")
                .count(),
            40
        );
    }
}
