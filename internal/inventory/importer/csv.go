package importer

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"chancery/internal/fault"
	"chancery/internal/inventory"
)

// csvColumns are the columns of a table, in any order; fingerprint or name
// must be there, and something to say. A column "tag:NAME" sets a tag.
var csvColumns = []string{"fingerprint", "name", "owner", "team", "environment", "managed"}

// maxColumns bounds the columns of a table.
const maxColumns = 40

// csv reads a table. Its first line names the columns; an empty field says
// nothing about that column.
func (r *reader) csv(data []byte) error {
	in := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))))
	in.ReuseRecord = true
	head, err := in.Read()
	if err != nil {
		return fault.Wrap(err, fault.Invalid, "the table has no first line with the names of its columns")
	}
	head = slices.Clone(head)
	for i := range head {
		head[i] = strings.ToLower(strings.TrimSpace(head[i]))
	}
	if err := checkColumns(head); err != nil {
		return err
	}
	for rows := 1; ; rows++ {
		fields, err := in.Read()
		line := 0
		if len(fields) > 0 { // FieldPos panics without
			line, _ = in.FieldPos(0)
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case rows > MaxItems:
			return fault.New(fault.TooLarge, "the table has more than %d rows", MaxItems)
		case err != nil && !errors.Is(err, csv.ErrFieldCount):
			r.refuse("table", fault.Wrap(err, fault.Invalid, "the table is broken: %.200s; rows before that were read", err.Error()))
			return nil
		case err != nil:
			r.refuse(fmt.Sprintf("line %d", line), fault.New(fault.Invalid, "the line has %d fields instead of %d", len(fields), len(head)))
			continue
		}
		r.row(line, head, fields)
	}
}

func checkColumns(head []string) error {
	if len(head) > maxColumns {
		return fault.New(fault.TooLarge, "the table has more than %d columns", maxColumns)
	}
	for i, c := range head {
		if !slices.Contains(csvColumns, c) && !strings.HasPrefix(c, "tag:") {
			return fault.New(fault.Invalid, "column %.40q is not known; columns are: %s tag:NAME", c, strings.Join(csvColumns, " "))
		}
		if slices.Contains(head[:i], c) {
			return fault.New(fault.Invalid, "column %.40q is there twice", c)
		}
	}
	if !slices.Contains(head, "fingerprint") && !slices.Contains(head, "name") {
		return fault.New(fault.Invalid, "the table needs a column fingerprint or name")
	}
	return nil
}

// row turns one line into an assignment.
func (r *reader) row(line int, head, fields []string) {
	a := Assignment{Line: line}
	item := fmt.Sprintf("line %d", line)
	var terms []string
	said := false
	for i, c := range head {
		v := strings.TrimSpace(fields[i])
		if v == "" {
			continue
		}
		if c == "fingerprint" || c == "name" {
			if strings.ContainsAny(v, " \"*") {
				r.refuse(item, fault.New(fault.Invalid, "%.80q is no fingerprint and no whole name", v))
				return
			}
			terms = append(terms, c+":"+v)
			continue
		}
		said = true
		if err := a.set(c, v); err != nil {
			r.refuse(item, err)
			return
		}
	}
	a.Query = strings.Join(terms, " ")
	_, err := inventory.Parse(a.Query, r.opt.SeenAt)
	switch {
	case len(terms) == 0 || !said:
		err = fault.New(fault.Invalid, "the line needs a fingerprint or a name, and something to say about it")
	}
	if err != nil {
		r.refuse(item, err)
		return
	}
	r.Assignments = append(r.Assignments, a)
}

// set takes one field over.
func (a *Assignment) set(column, v string) error {
	v = strings.Clone(v)
	switch column {
	case "owner":
		a.Edit.Owner = &v
	case "team":
		a.Edit.Team = &v
	case "environment":
		a.Edit.Environment = &v
	case "managed":
		if v != "yes" && v != "no" {
			return fault.New(fault.Invalid, "managed is yes or no, not %.20q", v)
		}
		a.Edit.Managed = new(v == "yes")
	default:
		if a.Edit.Tags == nil {
			a.Edit.Tags = map[string]string{}
		}
		a.Edit.Tags[strings.TrimPrefix(column, "tag:")] = v
	}
	return nil
}
