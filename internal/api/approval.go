package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"chancery/internal/audit"
	"chancery/internal/db"
	"chancery/internal/fault"
	"chancery/internal/token"
)

// Approval says which operations happen only when a second person agrees.
type Approval struct {
	Operations []string      // operation ids
	Expires    time.Duration // how long a request waits; 0 = 72 h
	BreakGlass bool          // an administrator may act alone, and say why
}

// breakGlassHeader carries the reason of somebody who acts alone.
const breakGlassHeader = "X-Break-Glass"

// keyHeader names a request so that it can be repeated safely
// (draft-ietf-httpapi-idempotency-key-header).
const keyHeader = "Idempotency-Key"

// Times of remembered requests.
const (
	keyLife         = 24 * time.Hour      // a repetition is answered for so long
	approvalLife    = 72 * time.Hour      // default of Approval.Expires
	approvalHistory = 30 * 24 * time.Hour // decided ones can be read for so long
)

// maxKey is the longest Idempotency-Key, in bytes.
const maxKey = 255

// remembered is a row of api_request.
type remembered struct {
	ID, Kind, Key, Actor, ActorName string
	Scope                           token.Scope // of who asked
	Operation, Path, Query          string
	Hash, Body                      []byte
	State                           string
	Status                          int
	Reply                           []byte
	DecidedBy, Comment              string
	CreatedAt, DecidedAt, ExpiresAt time.Time
}

const rememberedColumns = `id, kind, key, actor, actor_name, scope, operation, path, query, request_hash, body, state, status, reply, decided_by, comment, created_at, decided_at, expires_at`

var (
	qRemember = db.SQL("api.insert_request", `INSERT INTO api_request (id, kind, key, actor, actor_name, scope, operation, path, query, request_hash, body, state, status, decided_by, comment, created_at, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 0, '', '', $13, $14) ON CONFLICT DO NOTHING`)
	qByKey    = db.SQL("api.get_request_by_key", `SELECT `+rememberedColumns+` FROM api_request WHERE kind = 'key' AND actor = $1 AND key = $2`)
	qByID     = db.SQL("api.get_request", `SELECT `+rememberedColumns+` FROM api_request WHERE id = $1 AND kind = 'approval'`)
	qForget   = db.SQL("api.delete_request", `DELETE FROM api_request WHERE id = $1`)
	qFinish   = db.SQL("api.finish_request", `UPDATE api_request SET state = 'done', status = $2, reply = $3 WHERE id = $1 AND state = 'running'`)
	qDecide   = db.SQL("api.decide_request", `UPDATE api_request SET state = $2, decided_by = $3, comment = $4, decided_at = $5, expires_at = $6 WHERE id = $1 AND state = 'waiting' AND expires_at > $5`)
	qRequests = db.SQL("api.list_requests", `SELECT `+rememberedColumns+` FROM api_request WHERE kind = 'approval' AND state = $1 AND id < $2 ORDER BY id DESC LIMIT $3`)
	qExpire   = db.SQL("api.expire_requests", `UPDATE api_request SET state = 'expired', expires_at = $2 WHERE kind = 'approval' AND state = 'waiting' AND expires_at <= $1`)
	qSweepOld = db.SQL("api.sweep_requests", `DELETE FROM api_request WHERE expires_at <= $1 AND (kind = 'key' OR state <> 'waiting')`)
)

func scanRemembered(r *db.Row) remembered {
	m := remembered{ID: r.Text(), Kind: r.Text(), Key: r.Text(), Actor: r.Text(), ActorName: r.Text()}
	m.Scope = token.DecodeScope(r.Text())
	m.Operation, m.Path, m.Query, m.Hash, m.Body = r.Text(), r.Text(), r.Text(), r.Bytes(), r.Bytes()
	m.State, m.Status, m.Reply, m.DecidedBy, m.Comment = r.Text(), int(r.Int64()), r.Bytes(), r.Text(), r.Text()
	m.CreatedAt, m.DecidedAt, m.ExpiresAt = r.Time(), r.Time(), r.Time()
	return m
}

// change runs a request that changes something: at once, once per key, or not
// before somebody else agrees.
func (s *Server) change(w http.ResponseWriter, r *http.Request, rt route, handle func(http.ResponseWriter)) {
	key, held := r.Header.Get(keyHeader), slices.Contains(s.cfg.Approval.Operations, rt.op.OperationID)
	if rt.access.keyed {
		key = ""
	}
	if key == "" && !held {
		handle(w)
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, rt.op.MaxBodyBytes+1))
	if err == nil && int64(len(body)) > rt.op.MaxBodyBytes {
		err = fault.New(fault.TooLarge, "the body is larger than %d bytes", rt.op.MaxBodyBytes)
	}
	if err != nil {
		s.refuse(w, r, rt.op, err)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	who := callerOf(r.Context())
	row := remembered{Actor: who.actor, ActorName: who.name, Scope: who.scope, Operation: rt.op.OperationID,
		Path: r.URL.Path, Query: r.URL.RawQuery, Body: body, CreatedAt: now().Truncate(time.Millisecond)}
	row.Hash = row.hash()
	if held && !planOnly(body) {
		err = s.hold(w, r, rt, row, handle)
	} else if key != "" {
		err = s.once(w, r, rt, row, key, handle)
	} else {
		handle(w)
	}
	if err != nil {
		s.refuse(w, r, rt.op, err)
	}
}

// hash identifies what a request asks for.
func (m *remembered) hash() []byte {
	h := sha256.New()
	for _, part := range []string{m.Operation, m.Path, m.Query, string(m.Body)} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return h.Sum(nil)
}

// planOnly reports whether a request only asks what would happen.
func planOnly(body []byte) bool {
	var in struct {
		DryRun bool `json:"dry_run"`
	}
	return json.Unmarshal(body, &in) == nil && in.DryRun
}

func (m *remembered) insert(tx *db.Tx, clash func(int64) error) {
	tx.Queue(qRemember, clash, m.ID, m.Kind, m.Key, m.Actor, m.ActorName, token.EncodeScope(m.Scope), m.Operation, m.Path, m.Query, m.Hash, m.Body, m.State, m.CreatedAt, m.ExpiresAt)
}

// once runs a request unless one with its key was run before, which is then
// answered again.
func (s *Server) once(w http.ResponseWriter, r *http.Request, rt route, row remembered, key string, handle func(http.ResponseWriter)) error {
	if len(key) > maxKey {
		return fault.New(fault.Invalid, "the Idempotency-Key is longer than %d bytes", maxKey)
	}
	row.ID, row.Kind, row.Key, row.State, row.Body = db.NewID(row.CreatedAt), "key", key, "running", nil
	row.ExpiresAt = row.CreatedAt.Add(keyLife)
	clash := fault.New(fault.Conflict, "the key is in use")
	err := s.cfg.DB.Write(r.Context(), func(tx *db.Tx) error {
		row.insert(tx, db.ExactlyOne(clash))
		return nil
	})
	if fault.Is(err, fault.Conflict) {
		return s.again(w, r, row)
	}
	if err != nil {
		return err
	}
	rec := &recorder{ResponseWriter: w}
	handle(rec)
	s.keep(context.WithoutCancel(r.Context()), row.ID, rec, rt.access.secret)
	return nil
}

// keep stores what a request was answered. What may succeed later is forgotten,
// so that its key can be used again.
func (s *Server) keep(ctx context.Context, id string, rec *recorder, secret bool) {
	reply := rec.body
	if secret || rec.tooLong {
		reply = nil
	}
	err := s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		if rec.status >= 500 || rec.status == http.StatusTooManyRequests {
			tx.Queue(qForget, nil, id)
		} else {
			tx.Queue(qFinish, nil, id, rec.status, reply)
		}
		return nil
	})
	if err != nil { // the key stays in use: a repetition is told that the outcome is unknown
		s.log.LogAttrs(ctx, slog.LevelError, "answer was not kept", slog.Any("error", err))
	}
}

// again answers the repetition of a request.
func (s *Server) again(w http.ResponseWriter, r *http.Request, row remembered) error {
	first, err := db.Get(r.Context(), s.cfg.DB.Read(), qByKey, scanRemembered, row.Actor, row.Key)
	if err != nil {
		return fmt.Errorf("look up request: %w", err)
	}
	switch {
	case !bytes.Equal(first.Hash, row.Hash):
		return fault.New(fault.Invalid, "the Idempotency-Key was used for another request at %s; use a new one", first.CreatedAt.Format(time.RFC3339))
	case first.State == "running" && now().Sub(first.CreatedAt) > time.Minute:
		return fault.New(fault.Conflict, "the request with this key began at %s and was interrupted: look whether it was done, then use a new key", first.CreatedAt.Format(time.RFC3339))
	case first.State == "running":
		return fault.New(fault.Conflict, "the request with this key is still running").Retry(defaultRetry)
	case first.Reply == nil && first.Status != http.StatusNoContent:
		return fault.New(fault.Conflict, "the request with this key was done at %s with status %d; its answer was not kept", first.CreatedAt.Format(time.RFC3339), first.Status)
	}
	w.Header().Set("Idempotency-Replayed", "true")
	s.reply(w, r, first.Status, first.Reply)
	return nil
}

func (s *Server) reply(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	kind := "application/json"
	if status >= 400 {
		kind = "application/problem+json"
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil {
		s.log.LogAttrs(r.Context(), slog.LevelDebug, "answer was not sent", slog.Any("error", err))
	}
}

// hold stores a request until somebody else decides, or lets an administrator
// act alone.
func (s *Server) hold(w http.ResponseWriter, r *http.Request, rt route, row remembered, handle func(http.ResponseWriter)) error {
	who := callerOf(r.Context())
	if reason := r.Header.Get(breakGlassHeader); reason != "" {
		if err := s.breakGlass(r.Context(), who, row, reason); err != nil {
			return err
		}
		handle(w)
		return nil
	}
	row.ID, row.Kind, row.State = db.NewID(row.CreatedAt), "approval", "waiting"
	row.ExpiresAt = row.CreatedAt.Add(s.cfg.Approval.life())
	err := s.cfg.DB.Write(r.Context(), func(tx *db.Tx) error {
		row.insert(tx, nil)
		return audit.Append(tx, audit.Entry{At: row.CreatedAt, Kind: "approval.request", Actor: row.Actor, Subject: "approval:" + row.ID,
			Data: map[string]string{"operation": row.Operation, "path": row.Path, "request_hash": fmt.Sprintf("%x", row.Hash)}})
	})
	if err != nil {
		return fmt.Errorf("store request for approval: %w", err)
	}
	text, err := json.Marshal(viewApproval(&row))
	if err != nil {
		return err
	}
	w.Header().Set("Location", Prefix+"/approvals/"+row.ID)
	w.Header().Set("X-Approval", row.ID)
	s.reply(w, r, http.StatusAccepted, text)
	return nil
}

func (a *Approval) life() time.Duration {
	if a.Expires > 0 {
		return a.Expires
	}
	return approvalLife
}

// breakGlass journals that somebody acts alone.
func (s *Server) breakGlass(ctx context.Context, who caller, row remembered, reason string) error {
	switch {
	case !s.cfg.Approval.BreakGlass:
		return fault.New(fault.Forbidden, "acting alone is switched off here (approval.break_glass); ask somebody to approve")
	case !who.role.Allows(token.Administer):
		return fault.New(fault.Forbidden, "only an administrator may act alone")
	case len(reason) > 500:
		return fault.New(fault.Invalid, "the reason is longer than 500 bytes")
	}
	err := s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		return audit.Append(tx, audit.Entry{At: now(), Kind: "approval.break_glass", Actor: who.actor, Subject: "operation:" + row.Operation,
			Data: map[string]string{"reason": strings.ToValidUTF8(reason, "?"), "path": row.Path}})
	})
	if err != nil {
		return fmt.Errorf("record that somebody acts alone: %w", err)
	}
	s.log.LogAttrs(ctx, slog.LevelWarn, "operation without approval", slog.String("actor", who.actor), slog.String("operation", row.Operation))
	return nil
}

// ApprovalView is a request that waits for somebody, or was decided.
type ApprovalView struct {
	ID        string     `json:"id"`
	State     string     `json:"state" enum:"waiting,running,done,rejected,withdrawn,expired"`
	Operation string     `json:"operation" doc:"What was asked for"`
	Path      string     `json:"path"`
	Query     string     `json:"query,omitempty"`
	Request   any        `json:"request,omitempty" doc:"The body of the request"`
	Actor     string     `json:"actor" doc:"Who asked, as the journal names them"`
	ActorName string     `json:"actor_name"`
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"When it ends by itself, while it waits"`
	DecidedBy string     `json:"decided_by,omitempty"`
	DecidedAt *time.Time `json:"decided_at,omitempty"`
	Comment   string     `json:"comment,omitempty"`
	Status    int        `json:"status,omitempty" doc:"HTTP status of the operation once it ran"`
	Reply     any        `json:"reply,omitempty" doc:"What the operation answered"`
}

func viewApproval(m *remembered) ApprovalView {
	v := ApprovalView{ID: m.ID, State: m.State, Operation: m.Operation, Path: m.Path, Query: m.Query, Actor: m.Actor, ActorName: m.ActorName,
		CreatedAt: m.CreatedAt, DecidedBy: m.DecidedBy, DecidedAt: instant(m.DecidedAt), Comment: m.Comment, Status: m.Status}
	if m.State == "waiting" {
		v.ExpiresAt = instant(m.ExpiresAt)
	}
	// Bodies were JSON when they came; if not, there is nothing to show.
	_ = json.Unmarshal(m.Body, &v.Request)
	_ = json.Unmarshal(m.Reply, &v.Reply)
	return v
}

func (s *Server) approvals() {
	tag := []string{"Approvals"}
	register(s, huma.Operation{OperationID: "list-approvals", Method: http.MethodGet, Path: "/approvals", Tags: tag,
		Summary: "List requests that wait for a second person, or waited, the newest first"}, s.listApprovals)
	register(s, huma.Operation{OperationID: "get-approval", Method: http.MethodGet, Path: "/approvals/{id}", Tags: tag,
		Summary: "One of them"}, s.getApproval)
	register(s, huma.Operation{OperationID: "decide-approval", Method: http.MethodPost, Path: "/approvals/{id}/decision", Tags: tag,
		Summary: "Let a request of somebody else happen, or refuse it", Description: "It then runs as the one who asked, once. The answer says what came of it."}, s.decideApproval)
	register(s, huma.Operation{OperationID: "withdraw-approval", Method: http.MethodDelete, Path: "/approvals/{id}", Tags: tag,
		Summary: "Withdraw a request of one's own", DefaultStatus: http.StatusNoContent}, s.withdrawApproval)
}

type listApprovalsInput struct {
	ListInput
	State string `query:"state" default:"waiting" enum:"waiting,running,done,rejected,withdrawn,expired"`
}

func (s *Server) listApprovals(ctx context.Context, in *listApprovalsInput) (*pageOf[ApprovalView], error) {
	before, err := decodeID(in.Cursor)
	if err != nil {
		return nil, err
	}
	if before == "" {
		before = "~"
	}
	rows, err := db.List(ctx, s.cfg.DB.Read(), qRequests, scanRemembered, in.State, before, in.Limit+1)
	if err != nil {
		return nil, err
	}
	page := pageFrom(rows, in.Limit, func(m *remembered) string { return m.ID }, viewApproval)
	if _, is := limited(ctx); is { // what others ask for may be about anybody's certificates
		page.Body.Items = slices.DeleteFunc(page.Body.Items, func(v ApprovalView) bool { return v.Actor != actorOf(ctx) })
	}
	return page, nil
}

func (s *Server) approval(ctx context.Context, id string) (remembered, error) {
	m, err := db.Get(ctx, s.cfg.DB.Read(), qByID, scanRemembered, id)
	if errors.Is(err, db.ErrNotFound) {
		err = fault.New(fault.NotFound, "there is no request with this id")
	}
	return m, err
}

func (s *Server) getApproval(ctx context.Context, in *IDInput) (*bodyOf[ApprovalView], error) {
	m, err := s.approval(ctx, in.ID)
	if _, is := limited(ctx); is && (fault.Is(err, fault.NotFound) || err == nil && m.Actor != actorOf(ctx)) {
		err = outside("request", in.ID)
	}
	if err != nil {
		return nil, err
	}
	return &bodyOf[ApprovalView]{viewApproval(&m)}, nil
}

type decideInput struct {
	IDInput
	Body struct {
		Approve bool   `json:"approve" doc:"true: it happens now; false: it never will"`
		Comment string `json:"comment,omitempty" maxLength:"500"`
	}
}

func (s *Server) decideApproval(ctx context.Context, in *decideInput) (*bodyOf[ApprovalView], error) {
	m, err := s.approval(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	who := callerOf(ctx)
	if who.actor == m.Actor {
		return nil, fault.New(fault.Forbidden, "you asked for this yourself: somebody else must decide")
	}
	state, kind := "rejected", audit.Kind("approval.reject")
	if in.Body.Approve {
		state, kind = "running", "approval.approve"
		if err := s.mayStill(ctx, &m); err != nil {
			return nil, err
		}
	}
	if err := s.settle(ctx, &m, state, kind, in.Body.Comment); err != nil {
		return nil, err
	}
	if in.Body.Approve {
		s.perform(ctx, &m)
	}
	if m, err = s.approval(ctx, in.ID); err != nil {
		return nil, err
	}
	return &bodyOf[ApprovalView]{viewApproval(&m)}, nil
}

// settle decides a waiting request; one caller wins.
func (s *Server) settle(ctx context.Context, m *remembered, state string, kind audit.Kind, comment string) error {
	at, who := now(), actorOf(ctx)
	gone := fault.New(fault.Conflict, "the request does not wait any more; it is %s", m.State)
	if m.State == "waiting" {
		gone = fault.New(fault.Conflict, "the request has expired, or somebody else decided at the same time")
	}
	return s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qDecide, db.ExactlyOne(gone), m.ID, state, who, comment, at, at.Add(approvalHistory))
		return audit.Append(tx, audit.Entry{At: at, Kind: kind, Actor: who, Subject: "approval:" + m.ID,
			Data: map[string]string{"operation": m.Operation, "requested_by": m.Actor, "request_hash": fmt.Sprintf("%x", m.Hash)}})
	})
}

// mayStill makes sure that who asked could still do it today.
func (s *Server) mayStill(ctx context.Context, m *remembered) error {
	id, ok := strings.CutPrefix(m.Actor, "token:")
	if !ok {
		return nil // a person whose provider vouched for them when they asked
	}
	t, err := token.Get(ctx, s.cfg.DB.Read(), id)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return err
	}
	if err != nil || !t.Live(now()) {
		return fault.New(fault.Precondition, "the token that asked for this has ended; reject the request")
	}
	m.Scope = t.Scope
	return nil
}

// perform runs an approved request as the one who asked.
func (s *Server) perform(ctx context.Context, m *remembered) {
	rec := &recorder{ResponseWriter: &discard{header: http.Header{}}}
	rt, values, ok := s.routeOf(m)
	if !ok {
		rec.status = http.StatusGone
	} else {
		// It must not be cut off half way because the approver hung up.
		ctx := withCaller(context.WithoutCancel(ctx), caller{actor: m.Actor, name: m.ActorName, scope: m.Scope})
		r, err := http.NewRequestWithContext(ctx, rt.op.Method, m.Path+"?"+m.Query, bytes.NewReader(m.Body))
		if err != nil {
			rec.status = http.StatusInternalServerError
		} else {
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set(keyHeader, "approval-"+m.ID)
			for name, v := range values {
				r.SetPathValue(name, v)
			}
			rt.handle(newContext(rt.op, r, rec))
		}
	}
	reply := rec.body
	if rt.access.secret || rec.tooLong {
		reply = nil
	}
	err := s.cfg.DB.Write(context.WithoutCancel(ctx), func(tx *db.Tx) error {
		tx.Queue(qFinish, nil, m.ID, rec.status, reply)
		return nil
	})
	if err != nil {
		s.log.LogAttrs(ctx, slog.LevelError, "outcome of an approved request was not stored", slog.String("approval", m.ID), slog.Any("error", err))
	}
}

// routeOf finds the operation of a stored request and the values in its path.
func (s *Server) routeOf(m *remembered) (route, map[string]string, bool) {
	for _, rt := range s.routes {
		if rt.op.OperationID != m.Operation {
			continue
		}
		want, got, values := strings.Split(rt.op.Path, "/"), strings.Split(m.Path, "/"), map[string]string{}
		if len(want) != len(got) {
			return route{}, nil, false
		}
		for i := range want {
			if name, ok := strings.CutPrefix(want[i], "{"); ok {
				values[strings.TrimSuffix(name, "}")] = got[i]
			}
		}
		return rt, values, true
	}
	return route{}, nil, false
}

// discard is the connection of a request that nobody waits for.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}

func (s *Server) withdrawApproval(ctx context.Context, in *IDInput) (*struct{}, error) {
	m, err := s.approval(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if m.Actor != actorOf(ctx) {
		return nil, fault.New(fault.Forbidden, "somebody else asked for this; an approver can reject it")
	}
	return nil, s.settle(ctx, &m, "withdrawn", "approval.withdraw", "")
}

// Tick ends requests that waited too long and forgets old ones.
func (s *Server) Tick(ctx context.Context, at time.Time) error {
	err := s.cfg.DB.Write(ctx, func(tx *db.Tx) error {
		tx.Queue(qExpire, nil, at, at.Add(approvalHistory))
		tx.Queue(qSweepOld, nil, at)
		return nil
	})
	if err != nil {
		return fmt.Errorf("expire requests: %w", err)
	}
	return nil
}
