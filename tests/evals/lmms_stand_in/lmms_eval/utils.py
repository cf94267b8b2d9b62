"""How ``--model_args`` are read."""


def simple_parse_args_string(args_string):
    """``a=1,b=x`` as a dict; what looks like a bool or a number becomes one. Commas in quotes or brackets stay."""
    pairs = (part.split("=", 1) for part in _parts(args_string.strip()))
    return {key: handle_arg_string(value) for key, value in pairs}


def handle_arg_string(arg):
    if arg.lower() in ("true", "false"):
        return arg.lower() == "true"
    if arg.isnumeric():
        return int(arg)
    try:
        return float(arg)
    except ValueError:
        return arg


def _parts(text):
    parts, depth, quote = [""], 0, ""
    for before, char in zip(" " + text, text, strict=False):
        if char in "'\"" and before != "\\":
            quote = "" if char == quote else quote or char
        elif not quote:
            depth += (char in "{[") - (char in "}]")
        if char == "," and not quote and not depth:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts if part.strip()]
