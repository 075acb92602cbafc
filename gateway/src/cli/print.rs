//! Answers on the terminal: a table for people, JSON for scripts.

use std::io::{ErrorKind, Write};

use serde_json::{Map, Value as Json};

use crate::admin::Answer;

/// Prints an answer; a change that was made says nothing.
///
/// # Errors
/// It cannot be written as JSON.
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(super) fn answer(answer: &Answer, json: bool) -> anyhow::Result<()> {
    match answer {
        Answer::Done => {}
        Answer::LeftOut(lines) => lines.iter().for_each(|line| eprintln!("left out: {line}")),
        Answer::Text(text) => print!("{text}"),
        Answer::Table { columns, rows } | Answer::Page { columns, rows, .. } => {
            let mut listing = Listing::new(json);
            listing.page(columns, rows)?;
            listing.end(None)?;
        }
    }
    Ok(())
}

/// A list that is printed as its pages come.
pub(super) struct Listing {
    json: bool,
    /// Of the columns so far; a later page may be wider.
    widths: Vec<usize>,
    rows: usize,
}

impl Listing {
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            widths: Vec::new(),
            rows: 0,
        }
    }

    /// Prints some more rows. False: nobody reads them any more.
    ///
    /// # Errors
    /// They cannot be written.
    pub(super) fn page(&mut self, columns: &[String], rows: &[Vec<Json>]) -> anyhow::Result<bool> {
        let text = match self.json {
            true => self.documents(columns, rows)?,
            false => self.table(columns, rows),
        };
        write(&text)
    }

    /// Nothing more comes; `rest` is the cursor of what was not asked for.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn end(self, rest: Option<&str>) -> anyhow::Result<()> {
        if self.json {
            write(if self.rows == 0 { "[]\n" } else { "\n]\n" })?;
        }
        if let Some(cursor) = rest {
            eprintln!("there is more: --cursor {cursor}");
        }
        Ok(())
    }

    fn documents(&mut self, columns: &[String], rows: &[Vec<Json>]) -> anyhow::Result<String> {
        let mut out = String::new();
        for row in rows {
            let pairs = columns.iter().cloned().zip(row.iter().cloned());
            out.push_str(if self.rows == 0 { "[\n  " } else { ",\n  " });
            out.push_str(&serde_json::to_string(
                &pairs.collect::<Map<String, Json>>(),
            )?);
            self.rows += 1;
        }
        Ok(out)
    }

    fn table(&mut self, columns: &[String], rows: &[Vec<Json>]) -> String {
        let mut lines: Vec<Vec<String>> = Vec::new();
        if self.widths.is_empty() {
            self.widths = vec![0; columns.len()];
            lines.push(columns.to_vec());
        }
        lines.extend(rows.iter().map(|row| row.iter().map(cell).collect()));
        self.rows += rows.len();
        for line in &lines {
            let cells = line.iter().zip(&mut self.widths);
            cells.for_each(|(cell, width)| *width = (*width).max(cell.chars().count()));
        }
        let mut out = String::new();
        for line in &lines {
            let cells = line.iter().zip(&self.widths);
            let cells: Vec<String> = cells
                .map(|(cell, &width)| format!("{cell:width$}"))
                .collect();
            out.push_str(cells.join("  ").trim_end());
            out.push('\n');
        }
        out
    }
}

/// False: the reader has gone, as `head` does.
fn write(text: &str) -> anyhow::Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Text as it is, with line ends and the like escaped; the rest as JSON.
fn cell(value: &Json) -> String {
    match value {
        Json::String(text) => text.chars().flat_map(escaped).collect(),
        Json::Array(words) => words.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// What would move the cursor of a terminal is shown instead.
fn escaped(c: char) -> Vec<char> {
    match c.is_control() {
        true => c.escape_default().collect(),
        false => vec![c],
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_has_aligned_columns_and_no_control_characters() {
        let columns = ["name".to_owned(), "tags".to_owned()];
        let rows = [
            vec![json!("guest"), json!(["a", "b"])],
            vec![json!("x\u{1b}"), json!([])],
        ];
        let mut listing = Listing::new(false);
        assert_eq!(
            listing.table(&columns, &rows),
            "name     tags\nguest    a,b\nx\\u{1b}\n"
        );
        let more = [vec![json!("much longer"), json!(["c"])]];
        assert_eq!(listing.table(&columns, &more), "much longer  c\n");
    }

    #[test]
    fn pages_are_one_document() {
        let columns = ["n".to_owned()];
        let mut listing = Listing::new(true);
        let mut text = String::new();
        for page in [vec![vec![json!(1)], vec![json!(2)]], vec![vec![json!(3)]]] {
            text.push_str(&listing.documents(&columns, &page).unwrap());
        }
        text.push(']');
        let rows: Vec<Json> = serde_json::from_str(&text).unwrap();
        assert_eq!(rows, [json!({"n": 1}), json!({"n": 2}), json!({"n": 3})]);
    }
}
