//! Tables for people: columns as wide as their widest cell, the last as long as it is.

/// Space between columns, as kubectl has it.
const GAP: usize = 3;

/// Renders a heading and rows of as many cells. An empty cell is a dash, so that every row has all its columns for awk.
pub(super) fn render<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = heading.map(width);
    for row in rows {
        for (most, cell) in widths.iter_mut().zip(row) {
            *most = (*most).max(width(shown(cell)));
        }
    }
    let heading = heading.map(str::to_owned);
    std::iter::once(&heading)
        .chain(rows)
        .map(|row| line(row, &widths))
        .collect()
}

fn line<const N: usize>(row: &[String; N], widths: &[usize; N]) -> String {
    let mut line = String::new();
    for (cell, most) in row.iter().zip(widths) {
        let cell = shown(cell);
        line.push_str(cell);
        line.extend(std::iter::repeat_n(' ', most + GAP - width(cell)));
    }
    line.truncate(line.trim_end().len());
    line.push('\n');
    line
}

fn shown(cell: &str) -> &str {
    if cell.is_empty() { "-" } else { cell }
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_empty_cells_are_dashes() {
        let rows = [
            ["default/a".to_owned(), String::new(), "ünder".to_owned()],
            ["x/b".to_owned(), "Ready".to_owned(), String::new()],
        ];
        let expect = "\
NAME        PHASE   MESSAGE
default/a   -       ünder
x/b         Ready   -
";
        assert_eq!(render(["NAME", "PHASE", "MESSAGE"], &rows), expect);
    }

    #[test]
    fn a_table_without_rows_is_its_heading() {
        assert_eq!(render(["A", "B"], &[]), "A   B\n");
    }
}
