// SPDX-License-Identifier: LGPL-2.1-or-later

// A client that knows ufdd by its interface files only: its code was generated from them.
//
//	client SOCKET PID FOLDER	TAP on stdout; PID is a process to attach to, FOLDER has the files
package main

import (
	"context"
	"errors"
	"fmt"
	"io/ioutil"
	"os"
	"strconv"

	"github.com/varlink/go/varlink"
	"ioufdguest"
	"ioufdmanager"
)

var results, failed int

func check(what string, ok bool, detail interface{}) {
	results++
	if ok {
		fmt.Printf("ok %d - %s\n", results, what)
		return
	}
	failed++
	fmt.Printf("not ok %d - %s\n# %v\n", results, what, detail)
}

func connect(ctx context.Context, socket string) *varlink.Connection {
	connection, err := varlink.NewConnection(ctx, "unix:"+socket)
	if err != nil {
		fmt.Printf("Bail out! %v\n", err)
		os.Exit(1)
	}
	return connection
}

func service(ctx context.Context, c *varlink.Connection, folder string) {
	var vendor, product, version, url string
	var interfaces []string

	err := c.GetInfo(ctx, &vendor, &product, &version, &url, &interfaces)
	check("who is there", err == nil && product == "ufdd" && len(interfaces) == 4, interfaces)
	for _, name := range interfaces {
		text, err := c.GetInterfaceDescription(ctx, name)
		file, _ := ioutil.ReadFile(folder + "/" + name + ".varlink")
		check("the text of "+name+" is the file", err == nil && text == string(file), err)
	}
	_, err = c.GetInterfaceDescription(ctx, "a.b")
	var missing *varlink.InterfaceNotFound
	check("no such interface", errors.As(err, &missing), err)
}

func manager(ctx context.Context, c *varlink.Connection) {
	version, pid, started, kernel, features, _, _, _, _, _, connections, resident, store, _, _,
		_, draining, uncommitted, err := ioufdmanager.Status().Call(ctx, c)
	check("status", err == nil && version != "" && pid > 0 && started > 0 && kernel != "" &&
		features != "" && connections == 2 && resident > 0 && store == "none" && !draining &&
		!uncommitted, err)
	_, err = ioufdmanager.WatchEvents().Call(ctx, c)
	var other *varlink.Error // this library has no name for it
	check("a stream must be asked for as one", errors.As(err, &other) &&
		other.Name == "org.varlink.service.ExpectedMore", err)
	level := "loud"
	err = ioufdmanager.SetLog().Call(ctx, c, &level, nil)
	var wrong *varlink.InvalidParameter
	check("a bad parameter is named", errors.As(err, &wrong) && wrong.Parameter == "level", err)
}

func guest(ctx context.Context, c, events *varlink.Connection, pid int64) {
	background := false
	settings := ioufdguest.Settings{Background: &background}

	receive, err := ioufdmanager.WatchEvents().Send(ctx, events, varlink.More)
	check("events are followed", err == nil, err)
	event, flags, err := receive(ctx)
	check("the stream is live", err == nil && event == nil && flags&varlink.Continues != 0, err)

	made, err := ioufdguest.AttachProcess().Call(ctx, c, "g", &pid, nil, nil, nil, "zero", nil,
		&settings, nil)
	check("a process is attached", err == nil && made.Pid == pid && made.Front_end == "process",
		err)
	event, _, err = receive(ctx)
	check("the event says so", err == nil && event != nil && event.Kind == "attached" &&
		event.Guest == "g", event)
	_, err = ioufdguest.AttachProcess().Call(ctx, c, "g", &pid, nil, nil, nil, "zero", nil, nil,
		nil)
	var exists *ioufdguest.GuestExists
	check("its name is taken", errors.As(err, &exists) && exists.Name == "g", err)

	guests, err := ioufdguest.List().Call(ctx, c)
	check("it is listed", err == nil && len(guests) == 1 && guests[0].Name == "g", guests)
	_, shown, _, memories, err := ioufdguest.Show().Call(ctx, c, "g")
	check("it is shown", err == nil && !*shown.Background && len(memories) == 1 &&
		memories[0].Present_bytes+memories[0].Absent_bytes+memories[0].Removed_bytes ==
			memories[0].Length_bytes && memories[0].Mappings[0].Pid == pid, memories)

	progress, err := ioufdguest.Prefetch().Send(ctx, c, varlink.More, "g", nil, nil, nil)
	n, complete, flags := 0, false, uint64(varlink.Continues)
	var done, total int64
	for err == nil && flags&varlink.Continues != 0 {
		done, total, complete, flags, err = progress(ctx)
		n++
	}
	check("everything is fetched", err == nil && complete && done == total && total > 0 && n > 0,
		err)
	check("it is let go", ioufdguest.Detach().Call(ctx, c, "g", nil) == nil, "")
	_, _, _, _, err = ioufdguest.Show().Call(ctx, c, "g")
	var none *ioufdguest.NoSuchGuest
	check("then it is gone", errors.As(err, &none) && none.Name == "g" && none.Message != "", err)
}

func main() {
	ctx := context.Background()
	pid, _ := strconv.ParseInt(os.Args[2], 10, 64)
	c, events := connect(ctx, os.Args[1]), connect(ctx, os.Args[1])

	service(ctx, c, os.Args[3])
	manager(ctx, c)
	guest(ctx, c, events, pid)
	fmt.Printf("1..%d\n", results)
	if failed > 0 {
		os.Exit(1)
	}
}
