"""The graph: a net for one phase and one set of input shapes, ready for the passes."""

from netc.graph.build import Build, build_graph
from netc.graph.graph import Graph, Node, Param, Value, output_named
from netc.graph.rules import State

__all__ = ["Build", "Graph", "Node", "Param", "State", "Value", "build_graph", "output_named"]
