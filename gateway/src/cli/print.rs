//! Answers on the terminal: a table for people, JSON for scripts.

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
        Answer::Table { columns, rows } if json => {
            let rows: Vec<Map<String, Json>> = rows
                .iter()
                .map(|row| columns.iter().cloned().zip(row.iter().cloned()).collect())
                .collect();
            println!("{}", serde_json::to_string_pretty(&rows)?);
        }
        Answer::Table { columns, rows } => print!("{}", table(columns, rows)),
    }
    Ok(())
}

fn table(columns: &[String], rows: &[Vec<Json>]) -> String {
    let mut lines = vec![columns.to_vec()];
    lines.extend(rows.iter().map(|row| row.iter().map(cell).collect()));
    let width = |at: usize| {
        let cells = lines.iter().filter_map(|line| line.get(at));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut out = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, &width)| format!("{cell:width$}"))
            .collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
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
        assert_eq!(
            table(&columns, &rows),
            "name     tags\nguest    a,b\nx\\u{1b}\n"
        );
    }
}
