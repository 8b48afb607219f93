// Package packaging makes what is shipped beside the program: dashboards for
// Grafana out of the list of panels below. The alert rules for Prometheus are
// written by hand, in prometheus/chancery.rules.yml. A test holds every metric
// that either names against the registry of the program.
package packaging

import (
	"encoding/json"
	"fmt"
)

//go:generate go run ./gen

// Panel is one graph.
type Panel struct {
	Title string
	Unit  string // of Grafana: "s", "reqps", "short"
	Query string // PromQL
	By    string // label that names the lines, "" = one line
}

// Row is a line of panels.
type Row struct {
	Title  string
	Panels []Panel
}

// Dashboard is one dashboard; its file is UID.json.
type Dashboard struct {
	UID, Title string
	Rows       []Row
}

// rate is the query for a counter by a label.
func rate(metric, by string) string {
	return fmt.Sprintf("sum by (%s) (rate(%s[$__rate_interval]))", by, metric)
}

// p99 is the query for the 99th percentile of a histogram by a label.
func p99(metric, by string) string {
	return fmt.Sprintf("histogram_quantile(0.99, sum by (le, %s) (rate(%s_bucket[$__rate_interval])))", by, metric)
}

// Dashboards lists the dashboards.
func Dashboards() []Dashboard {
	return []Dashboard{
		{"chancery-issuance", "Chancery: issuance", []Row{
			{"Certificates", []Panel{
				{"Operations", "ops", rate("certificate_operations_total", "operation"), "operation"},
				{"Failures that are ours", "ops", `sum by (operation) (rate(certificate_operations_total{status="failure"}[$__rate_interval]))`, "operation"},
				{"Time, 99th percentile", "s", p99("certificate_operation_duration_seconds", "operation"), "operation"}}},
			{"Requests", []Panel{
				{"HTTP requests", "reqps", rate("chancery_http_requests_total", "class"), "class"},
				{"HTTP time, 99th percentile", "s", "topk(10, " + p99("chancery_http_request_duration_seconds", "route") + ")", "route"},
				{"In flight", "short", "sum(chancery_http_requests_in_flight)", ""}}},
			{"Storage", []Panel{
				{"Slowest statements, 99th percentile", "s", "topk(10, " + p99("database_query_duration_seconds", "query_type") + ")", "query_type"},
				{"CA requests, 99th percentile", "s", p99("ca_request_duration_seconds", "operation"), "operation"}}},
		}},
		{"chancery-status", "Chancery: revocation and status", []Row{
			{"OCSP", []Panel{
				{"Requests", "reqps", "sum(rate(chancery_ocsp_requests_total[$__rate_interval]))", ""},
				{"Time, 99th percentile", "s", "histogram_quantile(0.99, sum by (le) (rate(chancery_ocsp_request_duration_seconds_bucket[$__rate_interval])))", ""},
				{"Oldest answer", "s", "max(chancery_ocsp_oldest_answer_age_seconds)", ""}}},
			{"CRLs and caches", []Panel{
				{"Oldest CRL", "s", "max(chancery_crl_oldest_age_seconds)", ""},
				{"Entries of CRLs", "short", "max(chancery_crl_entries)", ""},
				{"Revocations not yet seen here", "s", "max(chancery_status_journal_age_seconds)", ""},
				{"Not yet purged", "s", "max(chancery_status_oldest_unpurged_age_seconds)", ""},
				{"Not yet uploaded", "s", "max(chancery_status_oldest_unuploaded_age_seconds)", ""}}},
		}},
		{"chancery-operation", "Chancery: operation", []Row{
			{"Alerts", []Panel{
				{"Firing", "short", "max by (severity) (chancery_alerts_firing)", "severity"},
				{"Messages", "ops", rate("chancery_alert_deliveries_total", "channel, outcome"), "channel"},
				{"Oldest message that a channel has not taken", "s", "max by (channel) (chancery_alert_oldest_delivery_seconds)", "channel"},
				{"Findings of the checker", "short", "max(chancery_checker_findings)", ""}}},
			{"Loops", []Panel{
				{"Backlog", "short", "max by (loop) (chancery_loop_backlog)", "loop"},
				{"Time of a tick, 99th percentile", "s", p99("chancery_loop_duration_seconds", "loop"), "loop"},
				{"Since the last success", "s", "time() - max by (loop) (chancery_loop_last_success_timestamp_seconds)", "loop"}}},
			{"Scanning", []Panel{
				{"Results", "ops", "sum(rate(chancery_scan_stored_total[$__rate_interval]))", ""},
				{"Time to store a batch, 99th percentile", "s", "histogram_quantile(0.99, sum by (le) (rate(chancery_scan_store_seconds_bucket[$__rate_interval])))", ""}}},
		}},
	}
}

// Sizes of Grafana's grid.
const (
	gridWidth   = 24
	panelHeight = 8
)

// JSON is the dashboard as Grafana imports it.
func (d Dashboard) JSON() ([]byte, error) {
	source := map[string]string{"type": "prometheus", "uid": "${datasource}"}
	panels, id, y := []any{}, 0, 0
	for _, row := range d.Rows {
		id++
		panels = append(panels, map[string]any{"id": id, "type": "row", "title": row.Title, "collapsed": false, "panels": []any{}, "gridPos": map[string]int{"x": 0, "y": y, "w": gridWidth, "h": 1}})
		y++
		for i, p := range row.Panels {
			id++
			width := gridWidth / min(len(row.Panels), 3)
			legend := p.Title
			if p.By != "" {
				legend = "{{" + p.By + "}}"
			}
			panels = append(panels, map[string]any{"id": id, "type": "timeseries", "title": p.Title, "datasource": source,
				"gridPos":     map[string]int{"x": i % 3 * width, "y": y + i/3*panelHeight, "w": width, "h": panelHeight},
				"fieldConfig": map[string]any{"defaults": map[string]any{"unit": p.Unit, "min": 0}, "overrides": []any{}},
				"targets":     []any{map[string]any{"refId": "A", "datasource": source, "expr": p.Query, "legendFormat": legend}}})
		}
		y += (len(row.Panels) + 2) / 3 * panelHeight
	}
	board := map[string]any{"uid": d.UID, "title": d.Title, "tags": []string{"chancery"}, "schemaVersion": 39, "version": 1, "editable": true, "refresh": "30s",
		"time":       map[string]string{"from": "now-6h", "to": "now"},
		"templating": map[string]any{"list": []any{map[string]any{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}}},
		"panels":     panels}
	text, err := json.MarshalIndent(board, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode dashboard %s: %w", d.UID, err)
	}
	return append(text, '\n'), nil
}
