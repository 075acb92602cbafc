//! `cargo xtask dashboard`: Grafana's file, from the list of panels.
//!
//! Keeps: the dashboard's identity (`uid`), so that an update replaces what is there.
//! Never: knows a metric; `panels` does.
//! In: `main`, `ci`; `tests/monitoring.rs` asks Prometheus every query of the file.

mod panels;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use panels::{Form, Panel, ROWS};

const FILE: &str = "deploy/grafana/dashboards/leveret.json";
const COLUMNS: u32 = 24;

/// Writes the file, or only says whether it is current.
///
/// # Errors
/// It is not current, or cannot be written.
pub(crate) fn run(root: &Path, check: bool) -> Result<()> {
    let path = root.join(FILE);
    let wanted = dashboard();
    if !check {
        fs::write(&path, format!("{wanted:#}\n")).with_context(|| path.display().to_string())?;
        println!("{FILE} is written");
        return Ok(());
    }
    // Compared as values, for the order of keys depends on how serde_json was built.
    let there = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    if serde_json::from_str::<Value>(&there).ok().as_ref() != Some(&wanted) {
        bail!("{FILE} is not what the code says: run `cargo xtask dashboard`");
    }
    Ok(())
}

fn dashboard() -> Value {
    json!({
        "uid": "leveret",
        "title": "Leveret",
        "description": "Rates, depths, dead letters, jobs, schedules and commits.",
        "tags": ["leveret"],
        "editable": false,
        "graphTooltip": 1,
        "refresh": "10s",
        "schemaVersion": 39,
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": variables()},
        "panels": laid_out(),
    })
}

fn variables() -> Vec<Value> {
    let source = json!({
        "type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus",
    });
    let labels = [
        (
            "instance",
            "Instance",
            "label_values(leveret_build_info, instance)",
        ),
        (
            "vhost",
            "Virtual host",
            "label_values(leveret_queue_messages_ready, vhost)",
        ),
        (
            "queue",
            "Queue",
            "label_values(leveret_queue_messages_ready{vhost=~\"$vhost\"}, queue)",
        ),
    ];
    let labels = labels.map(|(name, label, query)| {
        json!({
            "type": "query", "name": name, "label": label, "datasource": data_source(),
            "query": {"query": query, "refId": name}, "definition": query,
            // 2: asked again when the time range changes, for queues come and go.
            "refresh": 2, "sort": 1, "multi": true, "includeAll": true, "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        })
    });
    std::iter::once(source).chain(labels).collect()
}

/// Rows from top to bottom, panels from left to right.
fn laid_out() -> Vec<Value> {
    let (mut all, mut top, mut id) = (Vec::new(), 0, 1);
    for row in ROWS {
        let place = json!({"x": 0, "y": top, "w": COLUMNS, "h": 1});
        all.push(
            json!({"type": "row", "id": id, "title": row.title, "gridPos": place, "panels": []}),
        );
        (top, id) = (top + 1, id + 1);
        let (mut left, mut tallest) = (0, 0);
        for panel in row.panels {
            let (width, height) = size(panel);
            if left + width > COLUMNS {
                (top, left, tallest) = (top + tallest, 0, 0);
            }
            all.push(shown(
                panel,
                id,
                &json!({"x": left, "y": top, "w": width, "h": height}),
            ));
            (left, tallest, id) = (left + width, tallest.max(height), id + 1);
        }
        top += tallest;
    }
    all
}

fn size(panel: &Panel) -> (u32, u32) {
    match panel.form {
        Form::Number | Form::Alarm => (4, 4),
        Form::Lines | Form::Stack => (8, 8),
    }
}

fn shown(panel: &Panel, id: u32, place: &Value) -> Value {
    let names = "ABCDEFGH".chars();
    let targets = panel
        .queries
        .iter()
        .zip(names)
        .map(|((legend, query), name)| {
            json!({
                "refId": name.to_string(), "expr": panels::query(query), "legendFormat": legend,
                "datasource": data_source(), "range": true,
            })
        });
    let mut value = json!({
        "id": id,
        "title": panel.title,
        "description": panel.about,
        "datasource": data_source(),
        "gridPos": place,
        "targets": targets.collect::<Vec<_>>(),
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
    });
    let (kind, options) = match panel.form {
        Form::Number | Form::Alarm => {
            ("stat", json!({"reduceOptions": {"calcs": ["lastNotNull"]}}))
        }
        Form::Lines | Form::Stack => (
            "timeseries",
            json!({
                "legend": {"displayMode": "list", "placement": "bottom"},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }),
        ),
    };
    value["type"] = json!(kind);
    value["options"] = options;
    let defaults = &mut value["fieldConfig"]["defaults"];
    match panel.form {
        Form::Alarm => {
            let steps = json!([{"color": "green", "value": null}, {"color": "red", "value": 1}]);
            defaults["thresholds"] = json!({"mode": "absolute", "steps": steps});
        }
        Form::Number => defaults["color"] = json!({"mode": "fixed", "fixedColor": "text"}),
        Form::Stack => {
            defaults["custom"] = json!({"fillOpacity": 20, "stacking": {"mode": "normal"}});
        }
        Form::Lines => defaults["custom"] = json!({"fillOpacity": 0, "stacking": {"mode": "none"}}),
    }
    value
}

fn data_source() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn panels_neither_overlap_nor_leave_the_grid() {
        let mut taken = BTreeSet::new();
        for panel in laid_out() {
            let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            for x in place("x")..place("x") + place("w") {
                for y in place("y")..place("y") + place("h") {
                    assert!(x < u64::from(COLUMNS), "{panel}");
                    assert!(taken.insert((x, y)), "{panel}");
                }
            }
        }
    }

    #[test]
    fn every_panel_has_an_id_of_its_own_and_queries() {
        let panels = laid_out();
        let ids: BTreeSet<_> = panels
            .iter()
            .map(|panel| panel["id"].as_u64().unwrap())
            .collect();
        assert_eq!(ids.len(), panels.len());
        for panel in panels.iter().filter(|panel| panel["type"] != "row") {
            assert!(!panel["targets"].as_array().unwrap().is_empty(), "{panel}");
        }
    }

    #[test]
    fn every_query_can_be_narrowed_to_an_instance() {
        for (_, short) in ROWS
            .iter()
            .flat_map(|row| row.panels)
            .flat_map(|panel| panel.queries)
        {
            let query = panels::query(short);
            let metrics = query.matches("leveret_").count() + query.matches("process_").count();
            assert_eq!(
                query.matches("instance=~\"$instance\"").count(),
                metrics,
                "{query}"
            );
        }
    }
}
