// Command checker verifies a proof of a journal entry with nothing but
// golang.org/x/mod/sumdb: checker VERIFIER-KEY PROOF-FILE prints the entry.
package main

import (
	"encoding/base64"
	"fmt"
	"log"
	"os"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func main() {
	text, err := os.ReadFile(os.Args[2])
	must(err)
	head, checkpoint, _ := strings.Cut(string(text), "\n\n")
	lines := strings.Split(head, "\n")
	entry, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(lines[1], "extra "))
	must(err)
	var index int64
	_, err = fmt.Sscanf(lines[2], "index %d", &index)
	must(err)
	var path tlog.RecordProof
	for _, l := range lines[3:] {
		h, err := tlog.ParseHash(l)
		must(err)
		path = append(path, h)
	}
	key, err := note.NewVerifier(os.Args[1])
	must(err)
	n, err := note.Open([]byte(checkpoint), note.VerifierList(key))
	must(err)
	body := strings.Split(n.Text, "\n")
	var size int64
	_, err = fmt.Sscan(body[1], &size)
	must(err)
	root, err := tlog.ParseHash(body[2])
	must(err)
	must(tlog.CheckRecord(path, size, root, index, tlog.RecordHash(entry)))
	fmt.Printf("%s\n", entry)
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
