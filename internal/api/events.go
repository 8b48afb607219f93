package api

import (
	"context"
	"encoding/json/v2"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"chancery/internal/audit"
	"chancery/internal/fault"
	"chancery/internal/httpd"
)

// The stream of changes: every entry of the journal as it gets its place, as
// server-sent events (HTML standard, section 9.2). It drives what a browser
// shows, and any program that wants to follow.

const (
	eventsPath  = Prefix + "/events"
	eventsPoll  = 300 * time.Millisecond // how soon an entry is seen
	eventsPage  = 500                    // entries of one look
	eventsQueue = 32                     // looks that a slow reader may be behind
	eventsBeat  = 20 * time.Second       // a comment, so that proxies keep the line
	eventsTurn  = 15 * time.Minute       // then the reader comes back, and is authenticated again
	eventsMost  = 2000                   // readers
	eventsWrite = 20 * time.Second       // how long one event may take to be sent
)

// hub gives every reader what one look at the journal found.
type hub struct {
	mu      sync.Mutex
	readers map[chan []audit.Record]bool
	stop    context.CancelFunc // of the look-out; nil = nobody reads
	closed  chan struct{}      // closed by Drain
}

func newHub() *hub {
	return &hub{readers: map[chan []audit.Record]bool{}, closed: make(chan struct{})}
}

// Drain ends every stream, so that the server can end.
func (s *Server) Drain() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	select {
	case <-s.hub.closed:
	default:
		close(s.hub.closed)
	}
}

// join adds a reader. The look-out begins with the first, at the head that the
// journal has before join returns: who then reads what came before misses
// nothing.
func (s *Server) join(ctx context.Context) (chan []audit.Record, error) {
	head, err := audit.Head(ctx, s.cfg.DB.Read())
	if err != nil {
		return nil, err
	}
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.readers) >= eventsMost {
		return nil, fault.New(fault.Unavailable, "%d programs follow the changes already", eventsMost).Retry(time.Minute)
	}
	c := make(chan []audit.Record, eventsQueue)
	h.readers[c] = true
	if h.stop == nil {
		ctx, stop := context.WithCancel(context.Background())
		h.stop = stop
		go s.lookOut(ctx, head)
	}
	return c, nil
}

// leave removes a reader. The look-out ends with the last.
func (h *hub) leave(c chan []audit.Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.readers, c)
	if len(h.readers) == 0 && h.stop != nil {
		h.stop()
		h.stop = nil
	}
}

// lookOut follows the journal and tells the readers.
func (s *Server) lookOut(ctx context.Context, last int64) {
	tick := time.NewTicker(eventsPoll)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		var err error
		if last, err = s.look(ctx, last); err != nil && ctx.Err() == nil {
			s.log.LogAttrs(ctx, slog.LevelWarn, "journal was not followed", slog.Any("error", err))
		}
	}
}

func (s *Server) look(ctx context.Context, last int64) (int64, error) {
	recs, err := audit.Follow(ctx, s.cfg.DB.Read(), last, eventsPage)
	if err != nil || len(recs) == 0 {
		return last, err
	}
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	for c := range s.hub.readers {
		select {
		case c <- recs:
		default: // too slow: its stream ends, and it comes back where it was
			delete(s.hub.readers, c)
			close(c)
		}
	}
	return recs[len(recs)-1].Seq, nil
}

// streamOperation names the stream where operations are named.
var streamOperation = &huma.Operation{OperationID: "stream-events", Method: http.MethodGet, Path: eventsPath}

// eventRoutes mounts the stream.
func (s *Server) eventRoutes(g *httpd.Group) {
	g.HandleStd("GET "+eventsPath, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := s.admit(r, viewer); err != nil {
			s.refuse(w, r, streamOperation, err)
			return
		}
		if err := s.stream(w, r); err != nil {
			s.refuse(w, r, streamOperation, err)
		}
	}), 1<<10)
}

// stream sends changes until the reader is gone. An error means that nothing
// was sent.
func (s *Server) stream(w http.ResponseWriter, r *http.Request) error {
	last, err := s.resume(r)
	if err != nil {
		return err
	}
	c, err := s.join(r.Context())
	if err != nil {
		return err
	}
	defer s.hub.leave(c)
	out := &eventWriter{w: w, control: http.NewResponseController(w)}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would hold events back
	w.WriteHeader(http.StatusOK)
	ctx, cancel := context.WithTimeout(r.Context(), eventsTurn)
	defer cancel()
	if err := out.comment("changes follow"); err != nil {
		return nil
	}
	for last >= 0 { // what happened while the reader was away
		recs, err := audit.Follow(ctx, s.cfg.DB.Read(), last, eventsPage)
		if err != nil || len(recs) == 0 {
			break
		}
		if last, err = out.events(recs, last); err != nil {
			return nil
		}
	}
	s.pump(ctx, c, out, last)
	return nil
}

// resume returns the last entry that the reader has seen, or -1 for one that
// begins now.
func (s *Server) resume(r *http.Request) (int64, error) {
	text := r.Header.Get("Last-Event-ID")
	if text == "" {
		text = r.URL.Query().Get("after")
	}
	if text == "" {
		return -1, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, fault.New(fault.Invalid, "after is the seq of the last entry that you have seen")
	}
	return n, nil
}

// pump sends what the look-out finds.
func (s *Server) pump(ctx context.Context, c chan []audit.Record, out *eventWriter, last int64) {
	beat := time.NewTicker(eventsBeat)
	defer beat.Stop()
	for {
		var err error
		select {
		case recs, ok := <-c:
			if !ok {
				return
			}
			last, err = out.events(recs, last)
		case <-beat.C:
			err = out.comment("")
		case <-s.hub.closed:
			return
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// eventWriter writes server-sent events.
type eventWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func (o *eventWriter) flush() error {
	return o.control.Flush()
}

func (o *eventWriter) comment(text string) error {
	_ = o.control.SetWriteDeadline(time.Now().Add(eventsWrite)) // a transport without deadlines needs none
	if _, err := fmt.Fprintf(o.w, ": %s\n\n", text); err != nil {
		return err
	}
	return o.flush()
}

// events sends the entries after last and returns the new last.
func (o *eventWriter) events(recs []audit.Record, last int64) (int64, error) {
	_ = o.control.SetWriteDeadline(time.Now().Add(eventsWrite))
	for i := range recs {
		if recs[i].Seq <= last {
			continue
		}
		text, err := json.Marshal(viewEvent(&recs[i]))
		if err != nil {
			return last, err
		}
		if _, err := fmt.Fprintf(o.w, "id: %d\ndata: %s\n\n", recs[i].Seq, text); err != nil {
			return last, err
		}
		last = recs[i].Seq
	}
	return last, o.flush()
}
