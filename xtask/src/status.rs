//! `cargo xtask status`.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;

use crate::paths::Layout;
use crate::services;
use crate::supervise::{self, Status};
use crate::ui;

/// One line of the table.
type Row = [String; 6];

/// Prints a table of the supervised programs.
pub(crate) fn print(layout: &Layout) -> Result<()> {
    let mut names = supervise::names(layout)?;
    if names.is_empty() {
        ui::note(format!("nothing runs in {}", layout.root().display()));
        return Ok(());
    }
    names.sort_by_key(|name| services::START_ORDER.iter().position(|known| known == name));
    let mut rows: Vec<Row> =
        vec![["NAME", "PID", "UP", "RESTARTS", "HEALTH", "LOG"].map(str::to_owned)];
    for name in &names {
        rows.push(row(layout, name)?);
    }
    println!("{}", table(&rows));
    Ok(())
}

fn row(layout: &Layout, name: &str) -> Result<Row> {
    let status = supervise::status(layout, name)?;
    let log = layout.log(name).display().to_string();
    let child = status
        .as_ref()
        .filter(|status| status.is_supervised())
        .and_then(|status| status.child)
        .filter(|child| child.is_alive());
    let (Some(child), Some(status)) = (child, &status) else {
        let health = match &status {
            Some(status) if status.is_supervised() => {
                format!("ended by {}", last_exit(status))
            }
            Some(_) => "supervisor lost".to_owned(),
            None => "stopped".to_owned(),
        };
        let restarts = status.map_or_else(String::new, |status| status.restarts.to_string());
        return Ok([name.into(), "-".into(), "-".into(), restarts, health, log]);
    };
    let health = supervise::spec(layout, name)?.and_then(|spec| spec.health);
    let health = match health.map(|health| health.check()) {
        None => "running".to_owned(),
        Some(Ok(())) => "healthy".to_owned(),
        Some(Err(error)) => format!("unhealthy: {error:#}"),
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let up = std::time::Duration::from_secs(now.saturating_sub(status.started_at));
    Ok([
        name.into(),
        child.pid.to_string(),
        ui::duration(up),
        status.restarts.to_string(),
        health,
        log,
    ])
}

fn last_exit(status: &Status) -> &str {
    status.last_exit.as_deref().unwrap_or("an unknown cause")
}

/// Left-aligned columns, three spaces apart.
fn table(rows: &[Row]) -> String {
    let mut widths = [0; 6];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let lines: Vec<_> = rows
        .iter()
        .map(|row| {
            let cells: Vec<_> = row
                .iter()
                .zip(widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            cells.join("   ").trim_end().to_owned()
        })
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_tail() {
        let rows = [
            ["NAME", "PID", "UP", "RESTARTS", "HEALTH", "LOG"].map(str::to_owned),
            ["etcd", "12345", "3m05s", "0", "healthy", "x"].map(str::to_owned),
        ];
        assert_eq!(
            table(&rows),
            "NAME   PID     UP      RESTARTS   HEALTH    LOG\n\
             etcd   12345   3m05s   0          healthy   x"
        );
    }
}
