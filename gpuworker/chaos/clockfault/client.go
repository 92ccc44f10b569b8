package clockfault

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// Status is what the supervisor knows of one name.
type Status struct {
	// Processes counts the processes that have entered under the name and run (with their children as one), Hidden the executions whose vDSO
	// was hidden, Answered the readings of the wall clock that were answered with an offset other than 0.
	Processes int   `json:"processes"`
	Hidden    int64 `json:"hidden"`
	Answered  int64 `json:"answered"`
	// Problem is the first thing that did not work, "" when all did.
	Problem string `json:"problem,omitempty"`
}

// message is a line on the supervisor's socket; that of a process that enters carries its listener.
type message struct {
	Name string `json:"name"`
	// Enter: the sender is about to execute under the supervisor. Set: from now on Name's clock is Offset off.
	Enter  bool          `json:"enter,omitempty"`
	Set    bool          `json:"set,omitempty"`
	Offset time.Duration `json:"offset,omitempty"`
}

// reply is the supervisor's answer.
type reply struct {
	Status Status `json:"status"`
	Error  string `json:"error,omitempty"`
}

// Set moves the wall clock of everything that has entered under a name, or will: it is offset off the real one from now on.
func Set(ctx context.Context, socket, name string, offset time.Duration) (Status, error) {
	return ask(ctx, socket, message{Name: name, Set: true, Offset: offset})
}

// Get asks for the status of a name.
func Get(ctx context.Context, socket, name string) (Status, error) {
	return ask(ctx, socket, message{Name: name})
}

func ask(ctx context.Context, socket string, m message) (Status, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return Status{}, fmt.Errorf("cannot reach the supervisor of clocks: %w", err)
	}
	defer conn.Close()
	if d, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(d); err != nil {
			return Status{}, fmt.Errorf("cannot ask the supervisor of clocks: %w", err)
		}
	}
	if err := json.NewEncoder(conn).Encode(m); err != nil {
		return Status{}, fmt.Errorf("cannot ask the supervisor of clocks: %w", err)
	}
	return readReply(conn)
}

func readReply(conn net.Conn) (Status, error) {
	line, err := bufio.NewReader(conn).ReadBytes('\n')
	var r reply
	if err == nil {
		err = json.Unmarshal(line, &r)
	}
	if err == nil && r.Error != "" {
		err = errors.New(r.Error)
	}
	if err != nil {
		return Status{}, fmt.Errorf("the supervisor of clocks does not agree: %w", err)
	}
	return r.Status, nil
}
