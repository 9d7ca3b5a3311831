package simulator

// Files and skills.

import (
	"bytes"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
)

type fileInfo struct {
	ID           string `json:"id"`
	Type         string `json:"type"`
	Filename     string `json:"filename"`
	MIMEType     string `json:"mime_type"`
	SizeBytes    int    `json:"size_bytes"`
	CreatedAt    string `json:"created_at"`
	Downloadable bool   `json:"downloadable"`
}

func (f fileInfo) key() string { return f.ID }

type skillInfo struct {
	ID            string `json:"id"`
	Type          string `json:"type"`
	DisplayTitle  string `json:"display_title"`
	Source        string `json:"source"`
	LatestVersion string `json:"latest_version"`
	CreatedAt     string `json:"created_at"`
	UpdatedAt     string `json:"updated_at"`
}

// skillList is a list of the skills API, which counts pages.
type skillList struct {
	Data     []skillInfo `json:"data"`
	HasMore  bool        `json:"has_more"`
	NextPage *string     `json:"next_page"`
}

// part is one part of an upload.
type part struct {
	name, filename, mimeType string
	content                  []byte
}

// parts reads a multipart upload, or returns the answer to one that is none.
func (x *Exchange) parts() ([]part, *apiError) {
	body, problem := x.decoded()
	if problem != nil {
		return nil, problem
	}
	kind, params, err := mime.ParseMediaType(x.Request.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/form-data" {
		return nil, badRequest("Content-Type: multipart/form-data is required")
	}
	var parts []part
	for r := multipart.NewReader(bytes.NewReader(body), params["boundary"]); ; {
		p, err := r.NextPart()
		if err == io.EOF {
			return parts, nil
		}
		if err != nil {
			return nil, badRequest("The multipart body is not valid")
		}
		content, err := io.ReadAll(p)
		if err != nil {
			return nil, badRequest("The multipart body is not valid")
		}
		parts = append(parts, part{p.FormName(), p.FileName(), p.Header.Get("Content-Type"), content})
	}
}

func createFile(x *Exchange) {
	parts, problem := x.parts()
	if problem == nil && (len(parts) == 0 || parts[0].name != "file") {
		problem = badRequest("file: Field required")
	}
	if problem != nil {
		x.fail(*problem)
		return
	}
	upload, now := parts[0], x.sim.now()
	if upload.mimeType == "" {
		upload.mimeType = "application/octet-stream"
	}
	info := fileInfo{
		ID: x.sim.newID("file_"), Type: "file", Filename: upload.filename, MIMEType: upload.mimeType,
		SizeBytes: len(upload.content), CreatedAt: stamp(now), Downloadable: true,
	}
	x.account.own(&resource{kind: kindFile, id: info.ID, created: now, file: info, content: upload.content})
	x.json(http.StatusOK, info)
}

func listFiles(x *Exchange) {
	var list []fileInfo
	for _, r := range x.account.newest(kindFile) {
		list = append(list, r.file)
	}
	servePage(x, list)
}

func getFile(x *Exchange) {
	if r := x.named(kindFile, "File"); r != nil {
		x.json(http.StatusOK, r.file)
	}
}

func fileContent(x *Exchange) {
	if r := x.named(kindFile, "File"); r != nil {
		x.send(http.StatusOK, r.file.MIMEType, r.content)
	}
}

func deleteFile(x *Exchange) {
	if r := x.named(kindFile, "File"); r != nil {
		x.account.disown(r)
		x.json(http.StatusOK, deleted{r.id, "file_deleted"})
	}
}

func createSkill(x *Exchange) {
	parts, problem := x.parts()
	if problem != nil {
		x.fail(*problem)
		return
	}
	now := x.sim.now()
	info := skillInfo{
		ID: x.sim.newID("skill_"), Type: "skill", Source: "custom", LatestVersion: unix(now),
		CreatedAt: stamp(now), UpdatedAt: stamp(now),
	}
	for _, p := range parts {
		if p.name == "display_title" {
			info.DisplayTitle = string(p.content)
		}
	}
	x.account.own(&resource{kind: kindSkill, id: info.ID, created: now, skill: info})
	x.json(http.StatusOK, info)
}

func listSkills(x *Exchange) {
	list := skillList{Data: []skillInfo{}}
	for _, r := range x.account.newest(kindSkill) {
		list.Data = append(list.Data, r.skill)
	}
	x.json(http.StatusOK, list)
}

func getSkill(x *Exchange) {
	if r := x.named(kindSkill, "Skill"); r != nil {
		x.json(http.StatusOK, r.skill)
	}
}

func deleteSkill(x *Exchange) {
	if r := x.named(kindSkill, "Skill"); r != nil {
		x.account.disown(r)
		x.json(http.StatusOK, deleted{r.id, "skill_deleted"})
	}
}

func listSkillVersions(x *Exchange) {
	r := x.named(kindSkill, "Skill")
	if r == nil {
		return
	}
	version := map[string]string{
		"id": "skillver_" + r.skill.LatestVersion, "type": "skill_version", "skill_id": r.id,
		"version": r.skill.LatestVersion, "created_at": r.skill.CreatedAt,
	}
	x.json(http.StatusOK, map[string]any{"data": []any{version}, "has_more": false, "next_page": nil})
}
