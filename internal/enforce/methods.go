// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"chaperone/internal/catalog"
	"chaperone/internal/message"
)

// method is what the road knows of a protocol method of either era. Tools, prompts and resources are in the catalogue instead.
type method struct {
	// called: the method calls something of the catalogue; Request.Kind and Name say what.
	called bool
	effect catalog.Effect
	// list is the list in the answer, cut for the caller.
	list string
	// words: the answer may hold words of the server that nobody pinned, so the server's own label joins before it is released.
	words bool
	// task: the method names a task, which must have been made in the same run.
	task bool
	// stream: the answer may stay open and is accounted for message by message.
	stream bool
	// quiet: permitted ones leave no event. They carry nothing that anybody decides on later.
	quiet bool
}

// methodOf returns what is known of a method; false for one that neither era has (it is refused as method_unknown). The same table,
// with the reasons, is docs/methods.md.
func methodOf(name string) (method, bool) {
	read, write := catalog.Read, catalog.Write
	switch name {
	case MethodCall, MethodPrompt, MethodRead, "resources/subscribe", "resources/unsubscribe":
		return method{called: true}, true

	case "initialize", "server/discover":
		return method{effect: read}, true
	case MethodTools:
		return method{effect: read, list: message.Tools}, true
	case MethodPrompts:
		return method{effect: read, list: message.Prompts}, true
	case "resources/list":
		return method{effect: read, list: message.Resources}, true
	case "resources/templates/list":
		return method{effect: read, list: message.Templates}, true
	case "completion/complete":
		return method{effect: read, words: true}, true
	case "logging/setLevel":
		return method{effect: read}, true
	case "ping":
		return method{effect: read, quiet: true}, true

	case "tasks/list":
		return method{effect: read, list: message.Tasks, words: true}, true
	case "tasks/get", "tasks/result":
		return method{effect: read, task: true, words: true}, true
	case "tasks/cancel", "tasks/update":
		return method{effect: write, task: true, words: true}, true

	case MethodStream, "subscriptions/listen":
		return method{effect: read, stream: true}, true
	case MethodEnd:
		return method{effect: read}, true
	case MethodReply:
		return method{effect: write}, true

	case "notifications/initialized", "notifications/cancelled", "notifications/progress", "notifications/roots/list_changed":
		return method{effect: read, quiet: true}, true
	}
	return method{}, false
}
