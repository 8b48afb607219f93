package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"chancery/internal/fault"
)

// Sequences for the terminal (ECMA-48, xterm's alternate screen).
const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // a screen of our own, no cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l"
	toTop       = "\x1b[H"
	clearRight  = "\x1b[K"
	clearBelow  = "\x1b[J"
)

// screen draws on a terminal. It needs no library: there is no input but three
// keys, and a view is drawn as a whole.
type screen struct {
	out   *os.File
	e     env
	color bool
}

// watchScreen shows views on the terminal until ctx ends or somebody quits. It
// leaves the terminal as it was.
func watchScreen(ctx context.Context, e env, w *looker) (err error) {
	out, ok := e.stdout.(*os.File)
	if !ok {
		return errors.New("standard output is no terminal")
	}
	s := &screen{out: out, e: e, color: e.getenv("NO_COLOR") == "" && e.getenv("TERM") != "dumb"}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	keys, restore, err := s.open(stop)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, restore()) }()
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	var last *topView
	for {
		v, err := w.look(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			last = v
		case !fault.Is(err, fault.Unavailable) && !fault.Is(err, fault.RateLimited):
			return err
		}
		if err := s.draw(last, err); err != nil {
			return err
		}
		if err := s.wait(ctx, w.interval, keys, resized, func() error { return s.draw(last, err) }); err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// open takes the terminal over. quit is called when somebody types q or Ctrl-C;
// any other key arrives on keys.
func (s *screen) open(quit func()) (keys <-chan struct{}, restore func() error, err error) {
	pressed := make(chan struct{}, 1)
	var before *term.State
	in, ok := s.e.stdin.(*os.File)
	if ok && term.IsTerminal(int(in.Fd())) {
		if before, err = term.MakeRaw(int(in.Fd())); err != nil {
			return nil, nil, fmt.Errorf("take the terminal over: %w", err)
		}
		go readKeys(in, pressed, quit) // ends with the process: a read of a terminal cannot be taken back
	}
	restore = func() error {
		_, err := io.WriteString(s.out, leaveScreen)
		if before != nil {
			err = errors.Join(err, term.Restore(int(in.Fd()), before))
		}
		return err
	}
	if _, err := io.WriteString(s.out, enterScreen); err != nil {
		return nil, nil, errors.Join(err, restore())
	}
	return pressed, restore, nil
}

// Keys that a terminal in raw mode gives as they are.
const (
	ctrlC = 3
	ctrlD = 4
)

// readKeys waits for keys until the terminal is gone.
func readKeys(in io.Reader, pressed chan<- struct{}, quit func()) {
	var buf [16]byte
	for {
		n, err := in.Read(buf[:])
		if err != nil {
			return
		}
		for _, c := range buf[:n] {
			switch c {
			case 'q', 'Q', ctrlC, ctrlD:
				quit()
				return
			}
		}
		select {
		case pressed <- struct{}{}:
		default:
		}
	}
}

// wait pauses until the next look is due, and draws again when the size of the
// terminal changes.
func (s *screen) wait(ctx context.Context, d time.Duration, keys <-chan struct{}, resized <-chan os.Signal, again func() error) error {
	t := time.NewTimer(d)
	defer t.Stop()
	for {
		select {
		case <-resized:
			if err := again(); err != nil {
				return err
			}
		case <-keys:
			return nil
		case <-t.C:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// size returns the width and height of the terminal.
func (s *screen) size() (width, height int) {
	width, height, err := term.GetSize(int(s.out.Fd()))
	if err != nil || width <= 0 || height <= 0 { // a serial line knows neither
		width, height = 80, 24
		if n, err := strconv.Atoi(s.e.getenv("COLUMNS")); err == nil && n > 0 {
			width = n
		}
		if n, err := strconv.Atoi(s.e.getenv("LINES")); err == nil && n > 0 {
			height = n
		}
	}
	return width, height
}

// draw shows the newest view, and what went wrong since.
func (s *screen) draw(v *topView, problem error) error {
	var lines []line
	if v != nil {
		lines = v.lines()
	}
	if problem != nil {
		lines = append([]line{{{"no answer: " + faultText(problem), red}}}, lines...)
	}
	width, height := s.size()
	_, err := io.WriteString(s.out, frame(lines, width, height, s.color))
	return err
}

// frame is one screenful: at most height lines of at most width runes.
func frame(lines []line, width, height int, color bool) string {
	if cut := len(lines) - height; cut > 0 {
		lines = append(lines[:height-1:height-1], line{{fmt.Sprintf("... %d more lines; enlarge the window", cut+1), dim}})
	}
	var b strings.Builder
	b.WriteString(toTop)
	for i, l := range lines {
		if i > 0 {
			b.WriteString("\r\n")
		}
		l.write(&b, width, color)
		b.WriteString(clearRight)
	}
	b.WriteString(clearBelow)
	return b.String()
}
