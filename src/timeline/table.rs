//! Rows of short texts as aligned columns that fit a terminal. Knows nothing of what the texts mean.

/// Columns a line may have.
pub(super) const WIDTH_MAX: usize = 100;

/// Which end of a narrower text touches its column's edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// One column: its heading and how wide its cells may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) heading: &'static str,
    pub(super) align: Align,
    /// Longer cells are cut.
    pub(super) width_max: usize,
    /// Gives way when the line would be too wide; never below this.
    pub(super) width_min: usize,
}

impl Column {
    pub(super) const fn fixed(heading: &'static str, align: Align) -> Self {
        Self { heading, align, width_max: usize::MAX, width_min: usize::MAX }
    }

    pub(super) const fn up_to(heading: &'static str, width_max: usize) -> Self {
        Self { heading, align: Align::Left, width_max, width_min: usize::MAX }
    }

    pub(super) const fn elastic(heading: &'static str, width_min: usize) -> Self {
        Self { heading, align: Align::Left, width_max: usize::MAX, width_min }
    }
}

/// The headings and the rows, a line each. Every row has one cell per column.
pub(super) fn render(columns: &[Column], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(at, column)| {
            let cells = rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count());
            cells.chain([column.heading.chars().count()]).max().unwrap_or(0).min(column.width_max)
        })
        .collect();
    let total =
        |widths: &[usize], gap: usize| widths.iter().sum::<usize>() + gap * widths.len().saturating_sub(1);
    let gap = if total(&widths, 2) <= WIDTH_MAX { 2 } else { 1 };
    let mut excess = total(&widths, gap).saturating_sub(WIDTH_MAX);
    for (width, column) in widths.iter_mut().zip(columns) {
        let given = width.saturating_sub(column.width_min).min(excess);
        *width -= given;
        excess -= given;
    }
    let mut text = String::new();
    let headings: Vec<String> = columns.iter().map(|column| column.heading.to_owned()).collect();
    for row in [&headings].into_iter().chain(rows) {
        let mut line = String::new();
        for ((cell, column), width) in row.iter().zip(columns).zip(&widths) {
            let cell = cut(cell, *width);
            match column.align {
                Align::Left => line.push_str(&format!("{cell:<width$}")),
                Align::Right => line.push_str(&format!("{cell:>width$}")),
            }
            line.push_str(&" ".repeat(gap));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// At most `width` characters, the last one `…` when something is missing. Control characters, which a
/// tool's name may hold, never reach a terminal.
fn cut(text: &str, width: usize) -> String {
    let plain = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c });
    if text.chars().count() <= width {
        return plain.collect();
    }
    plain.take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_elastic_column_gives_way_until_the_line_fits() {
        let columns =
            [Column::fixed("n", Align::Right), Column::elastic("name", 10), Column::up_to("where", 12)];
        let rows = [
            vec!["1".to_owned(), "x".repeat(200), "y".repeat(30)],
            vec!["10".into(), "a".into(), "b".into()],
        ];
        let text = render(&columns, &rows);
        let widths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        assert_eq!(widths.iter().max(), Some(&WIDTH_MAX), "{text}");
        assert!(text.lines().nth(1).unwrap().ends_with(&format!("{}…", "y".repeat(11))), "{text}");
        assert!(text.lines().nth(2).unwrap().starts_with("10 a "), "{text}");
    }

    #[test]
    fn control_characters_never_reach_the_terminal() {
        assert_eq!(cut("a\u{1b}[31mb", 20), "a\u{fffd}[31mb");
    }
}
