package claudebalancer

import (
	"errors"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/claude-balancer/claude-balancer/access"
	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/store"
)

const metricsNamespace, metricsSubsystem = "caddy", "claude_balancer"

// The collectors are made once: Caddy has a new registry for each
// configuration, and counters that were made with it would start at zero again.
//
// Label values are bounded: names of accounts and client keys are the
// operator's, everything else comes from fixed lists. Nothing that a client sends is a label.
var metrics = struct {
	requests, tries, failovers, tokens, cost, refreshes, refused *prometheus.CounterVec
	keyRequests, keyTokens, keyCost                              *prometheus.CounterVec
	firstByte, overhead                                          prometheus.Histogram
	running                                                      prometheus.Gauge
}{
	requests:  newCounter("requests_total", "Proxied requests by how they ended.", "outcome", "family", "plan"),
	tries:     newCounter("tries_total", "Upstream round trips by account and what came of them.", "account", "cause"),
	failovers: newCounter("failovers_total", "Accounts given up within a request, by why.", "cause"),
	tokens:    newCounter("tokens_total", "Tokens counted in answers, by kind.", "account", "family", "kind"),
	cost:      newCounter("cost_usd_total", "Cost of answers with a known price, in US dollars.", "account"),
	refreshes: newCounter("refreshes_total", "Refreshes of logins by result.", "account", "result"),
	refused:   newCounter("refused_total", "Requests that were not let in, by why.", "reason"),

	keyRequests: newCounter("key_requests_total", "Proxied requests of a client key by how they ended.", "key", "outcome"),
	keyTokens:   newCounter("key_tokens_total", "Tokens counted in answers to a client key, by kind.", "key", "kind"),
	keyCost:     newCounter("key_cost_usd_total", "Cost of answers to a client key with a known price, in US dollars.", "key"),

	firstByte: prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: "first_byte_seconds",
		Help:    "Time from a request's arrival to the first byte of its answer.",
		Buckets: prometheus.ExponentialBuckets(0.05, 2, 14),
	}),
	overhead: prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: "overhead_seconds",
		Help:    "What of that time was not spent waiting for upstream's answer to the last try.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 4, 10),
	}),
	running: prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: "requests_running",
		Help: "Proxied requests that are running now.",
	}),
}

func newCounter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: name, Help: help,
	}, labels)
}

// registerMetrics puts the collectors into the configuration's registry: the
// shared ones, and one that reads the pool when it is asked.
func registerMetrics(ctx caddy.Context, a *App) error {
	registry := ctx.GetMetricsRegistry()
	m := &metrics
	for _, c := range []prometheus.Collector{
		m.requests, m.tries, m.failovers, m.tokens, m.cost, m.refreshes, m.refused, m.keyRequests, m.keyTokens, m.keyCost,
		m.firstByte, m.overhead, m.running, poolCollector{a},
	} {
		var already prometheus.AlreadyRegisteredError
		if err := registry.Register(c); err != nil && !errors.As(err, &already) {
			return err
		}
	}
	return nil
}

// poolCollector reads the pool's state at the moment of the scrape.
type poolCollector struct{ app *App }

var (
	descInFlight    = newDesc("in_flight", "Requests that an account serves now.", "account")
	descAvailable   = newDesc("account_available", "1 if the account may be chosen, else 0.", "account")
	descUtilization = newDesc("window_utilization", "Used fraction of an account's usage window.", "account", "window")
	descQueue       = newDesc("history_queue", "History rows waiting to be written.")
	descDropped     = newDesc("history_dropped_total", "History rows that were dropped because the store could not keep up.")
	descAway        = newDesc("store_away", "1 while the database cannot be reached, else 0.")
	descWaiting     = newDesc("requests_waiting", "Requests waiting for a free account.")
	descSessions    = newDesc("sessions", "Conversations whose account is remembered.")
	descKept        = newDesc("sessions_kept_total", "Requests that went to their conversation's account.")
	descMoved       = newDesc("sessions_moved_total", "Conversations that moved to another account, by why.", "why")
)

func newDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(metricsNamespace, metricsSubsystem, name), help, labels, nil)
}

// Describe implements prometheus.Collector.
func (c poolCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descInFlight, descAvailable, descUtilization, descQueue, descDropped, descAway, descWaiting, descSessions, descKept, descMoved} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c poolCollector) Collect(ch chan<- prometheus.Metric) {
	rt := c.app.runtime
	if rt == nil || !rt.isReady() {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, l := range rt.pool.Snapshot() {
		gauge(descInFlight, float64(l.InFlight-l.Elsewhere), l.Name)
		gauge(descAvailable, float64(truth(l.Status == api.StatusAvailable || l.Status == api.StatusBusy)), l.Name)
		for _, w := range l.Windows {
			if w.Utilization >= 0 {
				gauge(descUtilization, w.Utilization, l.Name, w.Name)
			}
		}
	}
	gauge(descQueue, float64(rt.recorder.Queued()))
	ch <- prometheus.MustNewConstMetric(descDropped, prometheus.CounterValue, float64(rt.recorder.Dropped()))
	gauge(descAway, float64(truth(rt.link.away())))
	gauge(descWaiting, float64(rt.pool.Waiting()))
	sessions := rt.pool.SessionStats()
	gauge(descSessions, float64(sessions.Held))
	ch <- prometheus.MustNewConstMetric(descKept, prometheus.CounterValue, float64(sessions.Kept))
	for why, n := range sessions.Moved {
		ch <- prometheus.MustNewConstMetric(descMoved, prometheus.CounterValue, float64(n), why)
	}
}

func metricInFlight(n float64) { metrics.running.Add(n) }

func metricTry(account string, cause anthropic.Cause) {
	metrics.tries.WithLabelValues(account, string(cause)).Inc()
}

// metricRequest counts a finished request.
func metricRequest(p *pass, row *store.Row) {
	metrics.requests.WithLabelValues(string(row.Outcome), row.Family, deref(row.PlanType)).Inc()
	if row.Client != nil {
		metrics.keyRequests.WithLabelValues(*row.Client, string(row.Outcome)).Inc()
	}
	for _, r := range p.results {
		if p.answer == nil || p.answer.ticket.ID != r.id {
			metrics.failovers.WithLabelValues(string(r.cause)).Inc()
		}
	}
	if p.answer == nil || p.firstByte.IsZero() {
		return
	}
	first := p.firstByte.Sub(p.start)
	metrics.firstByte.Observe(first.Seconds())
	metrics.overhead.Observe(max(0, (first - p.lastTry).Seconds()))
	if row.InputTokens != nil {
		for _, k := range []struct {
			kind string
			n    int64
		}{
			{"input", *row.InputTokens}, {"output", *row.OutputTokens}, {"cache_read", *row.CacheReadTokens},
			{"cache_write_5m", *row.CacheWrite5mTokens}, {"cache_write_1h", *row.CacheWrite1hTokens},
		} {
			metrics.tokens.WithLabelValues(*row.AccountUsed, row.Family, k.kind).Add(float64(k.n))
			if row.Client != nil {
				metrics.keyTokens.WithLabelValues(*row.Client, k.kind).Add(float64(k.n))
			}
		}
	}
	if row.CostUSD != nil {
		metrics.cost.WithLabelValues(*row.AccountUsed).Add(*row.CostUSD)
		if row.Client != nil {
			metrics.keyCost.WithLabelValues(*row.Client).Add(*row.CostUSD)
		}
	}
}

// countRefused counts a request that was not let in.
func countRefused(r *access.Refusal) {
	metrics.refused.WithLabelValues(strings.TrimSuffix(r.Type, "_error")).Inc()
}
